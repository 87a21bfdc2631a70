//! seccomp: which system calls. Everything that is not listed fails with EPERM:
//! sockets, programs, processes, signals, tracing, mounts, keys, io_uring, bpf.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// What the engine, the runtime, the C library and file functions need. None of
/// them takes a path that Landlock does not judge, but `statx`, `newfstatat` and
/// `readlinkat`, which only look. Calls with rules of their own come below.
const ALLOWED: &[i64] = &[
    // The socket, files that are open, and the standard streams.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_getdents64,
    // Files by path, below a descriptor.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    // Waiting, time, randomness.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    // Loaded code becomes visible to all threads, on processors that need it.
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_membarrier,
    libc::SYS_mremap,
    // Threads and signals to oneself.
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Answered with ENOSYS by the filter before, so that libc falls back.
    libc::SYS_clone3,
];

/// `clone` as glibc and musl make a thread: never a process.
const THREADS: [u64; 2] = [0x3d_0f00, 0x7d_0f00];
/// `ioctl`: pages of this process that were touched (`PAGEMAP_SCAN`).
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// `prctl`: names for memory (`PR_SET_VMA`).
const PR_SET_VMA: u64 = 0x5356_4d41;
/// `mmap`: of its flags, whose the memory is, and whether it grows like a stack.
const KIND: u64 = (libc::MAP_TYPE | libc::MAP_GROWSDOWN) as u64;

/// Whether code that was compiled before may be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// A file that is mapped may be made executable.
    Loaded,
    /// Nothing may.
    Never,
}

/// Restricts this thread, and those it starts. False if the kernel can't.
pub(super) fn restrict(code: Code) -> bool {
    let install = || -> Result<(), Error> {
        apply_filter(&no_clone3()?)?;
        apply_filter(&allow_list(code)?)
    };
    install().is_ok()
}

/// First, because of two filters that answer with an error the last one wins.
fn no_clone3() -> Result<BpfProgram, Error> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(errno(libc::ENOSYS)))
}

fn allow_list(code: Code) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let (read, execute) = (libc::PROT_READ as u64, libc::PROT_EXEC as u64);
    // No mapping is writable and executable. An artefact is mapped and then
    // made executable, which seccomp can't tell from other memory.
    // And each is private and no stack: `RLIMIT_DATA`, which bounds a worker's memory,
    // counts neither what is shared nor what grows down. (Refused droppable pages for its
    // random numbers, too, the C library asks the kernel for each.)
    let private = [(2, execute, 0), (3, KIND, libc::MAP_PRIVATE as u64)]
        .map(|(argument, mask, value)| condition(argument, SeccompCmpOp::MaskedEq(mask), value));
    rules.insert(libc::SYS_mmap, vec![all_of(private)?]);
    let mut protect = vec![masked(2, execute, 0)?];
    if code == Code::Loaded {
        protect.push(masked(2, 0b111, read | execute)?);
    }
    rules.insert(libc::SYS_mprotect, protect);
    // Times of a file that is open: by path Landlock would not judge them.
    rules.insert(libc::SYS_utimensat, any_of(1, &[0])?);
    // The socket, without the urgent byte, whose code nobody needs and some broke.
    let urgent = libc::MSG_OOB as u64;
    for (call, flags) in
        [(libc::SYS_sendmsg, 2), (libc::SYS_recvmsg, 2), (libc::SYS_sendto, 3), (libc::SYS_recvfrom, 3)]
    {
        rules.insert(call, vec![masked(flags, urgent, 0)?]);
    }
    // `abort` signals its own thread.
    let own = u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
    rules.insert(libc::SYS_tgkill, any_of(0, &[own])?);
    rules.insert(libc::SYS_madvise, any_of(2, &[libc::MADV_DONTNEED as u64, libc::MADV_FREE as u64])?);
    rules.insert(libc::SYS_ioctl, any_of(1, &[PAGEMAP_SCAN])?);
    rules.insert(libc::SYS_prctl, any_of(0, &[libc::PR_SET_NAME as u64, PR_SET_VMA])?);
    let descriptor =
        [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC].map(|what| what as u64);
    rules.insert(libc::SYS_fcntl, any_of(1, &descriptor)?);
    rules.insert(libc::SYS_clone, any_of(0, &THREADS)?);
    // A thread steps back; stepping forward takes a capability that is gone.
    let this_thread =
        [(0, libc::PRIO_PROCESS as u64), (1, 0)].map(|(argument, value)| condition(argument, SeccompCmpOp::Eq, value));
    rules.insert(libc::SYS_setpriority, vec![all_of(this_thread)?]);
    program(rules, SeccompAction::Errno(errno(libc::EPERM)), SeccompAction::Allow)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, Error> {
    let filter = SeccompFilter::new(rules, otherwise, listed, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, Error> {
    rule(argument, SeccompCmpOp::MaskedEq(mask), value)
}

fn any_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, Error> {
    values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
}

fn all_of<const N: usize>(conditions: [Result<SeccompCondition, Error>; N]) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)?)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    all_of([condition(argument, operator, value)])
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)?)
}

fn errno(number: i32) -> u32 {
    number.unsigned_abs()
}
