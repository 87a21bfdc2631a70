//! Processor time of calls that their worker never told of: it ended with them. A guest
//! that brings its worker to be killed would cost nothing by the audit log otherwise.

use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// What the threads of a process of ours have used until now, those that ended too; also
/// of one that ended and was not waited for (`clock_getcpuclockid(3)`).
pub(super) fn of_process(pid: u32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into().ok()?)).ok()?;
    Some(clock.now().ok()?.into())
}

/// Shares out what was used among calls that ran for so long each, by that; none is said
/// to have used more than it could, which is one thread.
pub(super) fn shares(rest: Duration, ran: &[Duration]) -> Vec<Duration> {
    let total: Duration = ran.iter().sum();
    if total.is_zero() {
        return vec![Duration::ZERO; ran.len()];
    }
    let part = rest.div_duration_f64(total).min(1.0);
    ran.iter().map(|ran| ran.mul_f64(part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_counted_until_it_is_waited_for() {
        let mut child = std::process::Command::new("sh").args(["-c", "exec >&-; kill -9 $$"]).spawn().expect("a shell");
        let pid = child.id();
        // `waitid` with `WNOWAIT` leaves it as it is.
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
        rustix::process::waitid(id, ended).expect("it ends");
        assert!(of_process(pid).is_some_and(|used| !used.is_zero()));
        child.wait().expect("it is waited for");
        assert_eq!(of_process(pid), None);
    }

    #[test]
    fn nobody_used_more_than_there_was() {
        let seconds = Duration::from_secs;
        assert_eq!(shares(seconds(3), &[seconds(2), seconds(4)]), [seconds(1), seconds(2)]);
        assert_eq!(shares(seconds(60), &[seconds(2), seconds(4)]), [seconds(2), seconds(4)]);
        assert_eq!(shares(seconds(1), &[Duration::ZERO]), [Duration::ZERO]);
    }
}
