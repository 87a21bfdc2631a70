//! Durations and sizes as people write them: `30s`, `30d`, `256MiB`.

use std::time::Duration;

const MS: u64 = 1;
const SECOND: u64 = 1_000 * MS;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// Says what is allowed.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("ms", MS), ("s", SECOND), ("m", MINUTE), ("h", HOUR), ("d", DAY)];
    let millis = counted(text, &UNITS).filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| "write a whole number and ms, s, m, h or d: 500ms, 30s, 30d".into())
}

/// A size in bytes: a whole number, alone or with `KiB`, `MiB`, `GiB`.
///
/// # Errors
/// Says what is allowed.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    counted(text, &UNITS).ok_or_else(|| "write a whole number of bytes, or with KiB, MiB, GiB: 256MiB".into())
}

fn counted(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size for people.
pub(super) fn show_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        // Exact enough for people.
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("2 h", 7_200), ("30d", 2_592_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "30", "s", "-1s", "1.5h", "0s", "1y", "99999999999999999999d", "999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [("65536", 65_536), ("64KiB", 65_536), ("256 MiB", 256 << 20), ("4GiB", 4 << 30), ("7B", 7)]
        {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "1MB", "-1", "99999999999GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(show_bytes(1_536), "1.5 KiB");
        assert_eq!(show_bytes(12), "12 B");
    }
}
