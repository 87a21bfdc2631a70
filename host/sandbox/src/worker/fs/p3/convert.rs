//! The types of 0.3 and of 0.2 that say the same.

use wasmtime_wasi::p2::FsError;
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::types as p2;
use wasmtime_wasi::p3::bindings::clocks::system_clock::Instant;
use wasmtime_wasi::p3::bindings::filesystem::types as p3;
use wasmtime_wasi::p3::filesystem::FilesystemError;

/// An error, or what ends the guest.
pub(super) fn error(error: FsError) -> FilesystemError {
    error.downcast().map_or_else(FilesystemError::trap, |known| code(known).into())
}

/// An error of the kernel's, or of the quota.
pub(super) fn failure(error: std::io::Error) -> p3::ErrorCode {
    if error.raw_os_error() == Some(rustix::io::Errno::DQUOT.raw_os_error()) {
        return p3::ErrorCode::Quota;
    }
    code(error.into())
}

/// The same code in 0.3.
pub(super) fn code(code: p2::ErrorCode) -> p3::ErrorCode {
    use p2::ErrorCode as From;
    use p3::ErrorCode as To;
    match code {
        From::Access => To::Access,
        From::Already => To::Already,
        From::BadDescriptor => To::BadDescriptor,
        From::Busy => To::Busy,
        From::Deadlock => To::Deadlock,
        From::Quota => To::Quota,
        From::Exist => To::Exist,
        From::FileTooLarge => To::FileTooLarge,
        From::IllegalByteSequence => To::IllegalByteSequence,
        From::InProgress => To::InProgress,
        From::Interrupted => To::Interrupted,
        From::Invalid => To::Invalid,
        From::Io => To::Io,
        From::IsDirectory => To::IsDirectory,
        From::Loop => To::Loop,
        From::TooManyLinks => To::TooManyLinks,
        From::MessageSize => To::MessageSize,
        From::NameTooLong => To::NameTooLong,
        From::NoDevice => To::NoDevice,
        From::NoEntry => To::NoEntry,
        From::NoLock => To::NoLock,
        From::InsufficientMemory => To::InsufficientMemory,
        From::InsufficientSpace => To::InsufficientSpace,
        From::NotDirectory => To::NotDirectory,
        From::NotEmpty => To::NotEmpty,
        From::NotRecoverable => To::NotRecoverable,
        From::Unsupported => To::Unsupported,
        From::NoTty => To::NoTty,
        From::NoSuchDevice => To::NoSuchDevice,
        From::Overflow => To::Overflow,
        From::NotPermitted => To::NotPermitted,
        From::Pipe => To::Pipe,
        From::ReadOnly => To::ReadOnly,
        From::InvalidSeek => To::InvalidSeek,
        From::TextFileBusy => To::TextFileBusy,
        From::CrossDevice => To::CrossDevice,
        // Nothing here waits, so nothing says that it would.
        From::WouldBlock => To::Other(None),
    }
}

/// What a file is.
pub(super) fn kind(kind: p2::DescriptorType) -> p3::DescriptorType {
    match kind {
        p2::DescriptorType::Unknown => p3::DescriptorType::Other(None),
        p2::DescriptorType::BlockDevice => p3::DescriptorType::BlockDevice,
        p2::DescriptorType::CharacterDevice => p3::DescriptorType::CharacterDevice,
        p2::DescriptorType::Directory => p3::DescriptorType::Directory,
        p2::DescriptorType::Fifo => p3::DescriptorType::Fifo,
        p2::DescriptorType::SymbolicLink => p3::DescriptorType::SymbolicLink,
        p2::DescriptorType::RegularFile => p3::DescriptorType::RegularFile,
        p2::DescriptorType::Socket => p3::DescriptorType::Socket,
    }
}

/// An entry of a directory.
pub(super) fn entry(p2::DirectoryEntry { type_, name }: p2::DirectoryEntry) -> p3::DirectoryEntry {
    p3::DirectoryEntry { type_: kind(type_), name }
}

/// What is known of a file.
pub(super) fn stat(stat: p2::DescriptorStat) -> p3::DescriptorStat {
    // Nothing is later than an `i64` of seconds.
    let time = |time: Datetime| {
        let seconds = i64::try_from(time.seconds).unwrap_or(i64::MAX);
        Instant { seconds, nanoseconds: time.nanoseconds }
    };
    p3::DescriptorStat {
        type_: kind(stat.type_),
        link_count: stat.link_count,
        size: stat.size,
        data_access_timestamp: stat.data_access_timestamp.map(time),
        data_modification_timestamp: stat.data_modification_timestamp.map(time),
        status_change_timestamp: stat.status_change_timestamp.map(time),
    }
}

/// A time that is to be set. There is none before 1970 in 0.2.
pub(super) fn time(time: p3::NewTimestamp) -> Result<p2::NewTimestamp, p3::ErrorCode> {
    Ok(match time {
        p3::NewTimestamp::NoChange => p2::NewTimestamp::NoChange,
        p3::NewTimestamp::Now => p2::NewTimestamp::Now,
        p3::NewTimestamp::Timestamp(Instant { seconds, nanoseconds }) => {
            let seconds = u64::try_from(seconds).map_err(|_| p3::ErrorCode::Overflow)?;
            p2::NewTimestamp::Timestamp(Datetime { seconds, nanoseconds })
        }
    })
}

/// How a file will be used.
pub(super) fn advice(advice: p3::Advice) -> p2::Advice {
    match advice {
        p3::Advice::Normal => p2::Advice::Normal,
        p3::Advice::Sequential => p2::Advice::Sequential,
        p3::Advice::Random => p2::Advice::Random,
        p3::Advice::WillNeed => p2::Advice::WillNeed,
        p3::Advice::DontNeed => p2::Advice::DontNeed,
        p3::Advice::NoReuse => p2::Advice::NoReuse,
    }
}

/// Whether links are followed.
pub(super) fn path_flags(flags: p3::PathFlags) -> p2::PathFlags {
    if flags.contains(p3::PathFlags::SYMLINK_FOLLOW) { p2::PathFlags::SYMLINK_FOLLOW } else { p2::PathFlags::empty() }
}

/// What is done when a file is opened.
pub(super) fn open_flags(flags: p3::OpenFlags) -> p2::OpenFlags {
    let same = [
        (p3::OpenFlags::CREATE, p2::OpenFlags::CREATE),
        (p3::OpenFlags::DIRECTORY, p2::OpenFlags::DIRECTORY),
        (p3::OpenFlags::EXCLUSIVE, p2::OpenFlags::EXCLUSIVE),
        (p3::OpenFlags::TRUNCATE, p2::OpenFlags::TRUNCATE),
    ];
    let set = same.into_iter().filter(|(from, _)| flags.contains(*from));
    set.fold(p2::OpenFlags::empty(), |all, (_, to)| all | to)
}

/// Each right of a descriptor in 0.3 and in 0.2.
const RIGHTS: [(p3::DescriptorFlags, p2::DescriptorFlags); 6] = [
    (p3::DescriptorFlags::READ, p2::DescriptorFlags::READ),
    (p3::DescriptorFlags::WRITE, p2::DescriptorFlags::WRITE),
    (p3::DescriptorFlags::FILE_INTEGRITY_SYNC, p2::DescriptorFlags::FILE_INTEGRITY_SYNC),
    (p3::DescriptorFlags::DATA_INTEGRITY_SYNC, p2::DescriptorFlags::DATA_INTEGRITY_SYNC),
    (p3::DescriptorFlags::REQUESTED_WRITE_SYNC, p2::DescriptorFlags::REQUESTED_WRITE_SYNC),
    (p3::DescriptorFlags::MUTATE_DIRECTORY, p2::DescriptorFlags::MUTATE_DIRECTORY),
];

/// What a descriptor is to be good for.
pub(super) fn wanted(flags: p3::DescriptorFlags) -> p2::DescriptorFlags {
    let set = RIGHTS.into_iter().filter(|(from, _)| flags.contains(*from));
    set.fold(p2::DescriptorFlags::empty(), |all, (_, to)| all | to)
}

/// What a descriptor is good for.
pub(super) fn held(flags: p2::DescriptorFlags) -> p3::DescriptorFlags {
    let set = RIGHTS.into_iter().filter(|(_, from)| flags.contains(*from));
    set.fold(p3::DescriptorFlags::empty(), |all, (to, _)| all | to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_0_3_can_say_and_0_2_can_not_is_refused() {
        let at = |seconds| p3::NewTimestamp::Timestamp(Instant { seconds, nanoseconds: 1 });
        assert!(matches!(time(at(-1)), Err(p3::ErrorCode::Overflow)));
        assert!(matches!(time(at(7)), Ok(p2::NewTimestamp::Timestamp(Datetime { seconds: 7, nanoseconds: 1 }))));
    }

    #[test]
    fn rights_and_flags_mean_the_same() {
        let all = RIGHTS.map(|(right, _)| right);
        for right in all {
            assert_eq!(held(wanted(right)), right);
        }
        let both = p3::OpenFlags::CREATE | p3::OpenFlags::EXCLUSIVE;
        assert_eq!(open_flags(both), p2::OpenFlags::CREATE | p2::OpenFlags::EXCLUSIVE);
        assert_eq!(path_flags(p3::PathFlags::empty()), p2::PathFlags::empty());
        assert_eq!(path_flags(p3::PathFlags::SYMLINK_FOLLOW), p2::PathFlags::SYMLINK_FOLLOW);
    }

    #[test]
    fn the_quota_and_the_largest_file_have_their_codes() {
        let failed = |errno: rustix::io::Errno| failure(errno.into());
        assert!(matches!(failed(rustix::io::Errno::DQUOT), p3::ErrorCode::Quota));
        assert!(matches!(failed(rustix::io::Errno::FBIG), p3::ErrorCode::FileTooLarge));
    }
}
