//! The kernel's quota of a workspace, where the file system has one: project quotas of
//! ext4 and XFS. What is made below a workspace belongs to its project, whoever makes
//! it, and the kernel refuses what is more than the project may have. So a worker that
//! was taken over, and whose word of what it wrote is worth nothing, fills no disk.
//!
//! Sizes are counted by [`bulkhead_core::quota`]; the kernel counts blocks and inodes.
//! Its bound is looser, so that who keeps to the quota never meets it.
//!
//! Sources: `quotactl(2)`, `linux/dqblk_xfs.h`, `linux/fs.h`; that nothing is moved into
//! a directory of another project (`EXDEV`): `ext4_rename`, `xfs_rename`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bulkhead_core::quota::Extent;
use rustix::fs::{Dir, FileType};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Setter, opcode};

use crate::{beneath, remove};

/// What a file takes beyond its size, at most: its last block, in bytes.
const BLOCK: u64 = 4_096;
/// Room for what is on its way: in the trash, or half made. A share of the entries.
const UNDER_WAY: u64 = 8;
/// And so many entries of it at least.
const LEAST_UNDER_WAY: u64 = 64;
/// Ids below are left to whoever gives them by hand.
const FIRST_ID: u32 = 1 << 20;
/// How many ids are looked at for one that is free.
const TRIES: u32 = 10_000;
/// The unit of the kernel's limits, in bytes.
const BASIC_BLOCK: u64 = 512;

/// Whether the kernel's quota is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelQuota {
    /// Not.
    Off,
    /// Where it can be.
    #[default]
    Auto,
    /// It must be.
    Required,
}

/// Whether the kernel can bound workspaces in this directory: if not, why.
///
/// # Errors
/// The reason, in words.
pub fn kernel_quota_of(directory: &Path) -> Result<(), String> {
    let directory = std::fs::File::open(directory).map_err(|error| error.to_string())?;
    Projects::of(directory.as_fd()).map(drop)
}

/// The projects of a file system.
#[derive(Debug)]
pub(super) struct Projects {
    root: OwnedFd,
    /// The id that is looked at next. Ids lie beside each other, because XFS keeps a block
    /// for each few of them for ever.
    next: Mutex<u32>,
}

/// The kernel's bound of a project, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// What it may have.
    pub(super) most: Extent,
    /// What it has, in blocks and inodes.
    pub(super) used: Extent,
}

impl Projects {
    /// Those of the file system that `root` is on.
    ///
    /// # Errors
    /// Why there are none, or why they can't be bounded, in words.
    pub(super) fn of(root: BorrowedFd<'_>) -> Result<Self, String> {
        match sys::is_enforced(root) {
            Ok(true) => {}
            Ok(false) => {
                return Err("the file system counts projects and does not bound them: mount it with `prjquota`".into());
            }
            Err(Errno::PERM | Errno::ACCESS) => return Err("setting it takes CAP_SYS_ADMIN".into()),
            Err(_) => return Err("the file system has no project quotas, or is mounted without `prjquota`".into()),
        }
        let own = sys::project(root).map_err(|error| format!("its project can't be read: {error}"))?;
        if own.0 != 0 {
            // Its bound is somebody's who knows why, and all that is made below would have it.
            return Err(format!("the data directory belongs to the project {} already", own.0));
        }
        let root = root.try_clone_to_owned().map_err(|error| error.to_string())?;
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        let first = FIRST_ID + u32::from_ne_bytes(bytes) % (u32::MAX / 2);
        let this = Self { root, next: Mutex::new(first) };
        // Reading may be allowed where setting is not. Nobody is given this id.
        this.bind(u32::MAX - 1, None).map_err(|error| format!("setting it takes CAP_SYS_ADMIN ({error})"))?;
        Ok(this)
    }

    /// Gives a directory a project of its own, which may have `most`, unless it has one
    /// that is not that of the directory which it is in.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn found(
        &self,
        directory: BorrowedFd<'_>,
        within: BorrowedFd<'_>,
        most: Extent,
    ) -> rustix::io::Result<()> {
        // One after the other: what one sees of the directory above is what it stays.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, above) = (sys::project(directory)?.0, sys::project(within)?.0);
        if own != 0 && own != above {
            return Ok(());
        }
        let id = match Self::of_content(directory, above)? {
            Some(id) => id,
            None => self.unused(&mut next)?,
        };
        self.bind(id, Some(most))?;
        sys::set_project(directory, id, true)
    }

    /// The project that a directory had before it was moved here by a host that died in
    /// the middle of it ([`keeping`]): what is in it still has it.
    fn of_content(directory: BorrowedFd<'_>, above: u32) -> rustix::io::Result<Option<u32>> {
        let mut entries = Dir::read_from(directory)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            if remove::is_dots(entry.file_name()) {
                continue;
            }
            let Some((id, _)) = project_at(directory, entry.file_name().to_bytes())? else { continue };
            return Ok(Some(id).filter(|id| *id != 0 && *id != above));
        }
        Ok(None)
    }

    /// Lets the project that this directory belongs to go: it is bounded no more. Not if it
    /// is that of the directory which it was in.
    pub(super) fn release(&self, of: BorrowedFd<'_>, within: BorrowedFd<'_>) {
        let above = sys::project(within).map_or(0, |(id, _)| id);
        let own = sys::project(of).map(|(id, _)| id);
        let released = own.and_then(|id| if id == 0 || id == above { Ok(()) } else { self.bind(id, None) });
        if let Err(error) = released {
            tracing::warn!(%error, "the kernel's quota of a workspace that is gone could not be taken away");
        }
    }

    /// What the kernel says of the project that this belongs to; none of none.
    #[cfg(test)]
    pub(super) fn bound(&self, of: BorrowedFd<'_>) -> rustix::io::Result<Option<Bound>> {
        match sys::project(of)? {
            (0, _) => Ok(None),
            (id, _) => sys::quota(self.root.as_fd(), id).map(Some),
        }
    }

    fn bind(&self, id: u32, most: Option<Extent>) -> rustix::io::Result<()> {
        let most = most.map_or(Extent::default(), |most| Extent {
            // Zero would be no bound at all.
            bytes: most.bytes.saturating_add(most.entries.saturating_mul(BLOCK)).max(BLOCK),
            entries: most.entries.saturating_add((most.entries / UNDER_WAY).max(LEAST_UNDER_WAY)),
        });
        sys::set_quota(self.root.as_fd(), id, most)
    }

    /// A project that nothing belongs to and nobody has bounded.
    fn unused(&self, next: &mut u32) -> rustix::io::Result<u32> {
        for _ in 0..TRIES {
            let id = *next;
            *next = if id >= u32::MAX - 2 { FIRST_ID } else { id + 1 };
            match sys::quota(self.root.as_fd(), id) {
                // XFS has no record of it.
                Err(Errno::NOENT | Errno::SRCH) => return Ok(id),
                Ok(bound) if bound == Bound { most: Extent::default(), used: Extent::default() } => return Ok(id),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::AGAIN)
    }
}

/// Moves a directory into one that hands its project down, and lets it keep its own:
/// nothing else can be told from it meanwhile. The kernel moves nothing into another
/// project.
pub(super) fn keeping<T>(
    into: BorrowedFd<'_>,
    what: BorrowedFd<'_>,
    moves: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    let Ok((own, handed_down)) = sys::project(what) else { return moves() };
    adopt(into, what)?;
    let moved = moves();
    if own != 0 {
        sys::set_project(what, own, handed_down)?;
    }
    moved
}

/// Whether what is moved into `directory` has to be of another project than this is, and
/// what is in it likewise.
pub(super) fn is_of_another(directory: BorrowedFd<'_>, what: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    match sys::project(directory) {
        Ok((id, true)) if id != 0 => Ok(sys::project(what)?.0 != id),
        _ => Ok(false),
    }
}

/// The project of a file or directory, by its name; none of what is neither, or can't be
/// opened.
fn project_at(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<(u32, bool)>> {
    let kind = FileType::from_raw_mode(beneath::stat_at(directory, name)?.st_mode);
    let opened = match kind {
        FileType::Directory => beneath::open_dir(directory, name),
        FileType::RegularFile => beneath::open_file(directory, name).map(|opened| opened.file),
        _ => return Ok(None),
    };
    opened.ok().map(|opened| sys::project(opened.as_fd())).transpose()
}

/// Lets what is to be moved into `directory` belong to its project, if that is handed
/// down: the kernel moves nothing from one project to another.
pub(super) fn adopt(directory: BorrowedFd<'_>, what: BorrowedFd<'_>) -> rustix::io::Result<()> {
    match sys::project(directory) {
        Ok((id, true)) if id != 0 => match sys::project(what)? {
            (own, _) if own == id => Ok(()),
            (_, _) => sys::set_project(what, id, is_directory(what)?),
        },
        // No projects here.
        _ => Ok(()),
    }
}

fn is_directory(what: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mode = rustix::fs::fstat(what)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

/// What no library has for projects.
#[expect(unsafe_code, reason = "system calls that no library wraps; beside each is why it is sound")]
mod sys {
    use super::*;

    /// `struct fsxattr` of `linux/fs.h`.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Attributes {
        flags: u32,
        extent_size: u32,
        extents: u32,
        project: u32,
        copy_on_write_extent_size: u32,
        padding: [u8; 8],
    }

    /// `FS_XFLAG_PROJINHERIT`.
    const HANDED_DOWN: u32 = 0x0000_0200;

    const GET: rustix::ioctl::Opcode = opcode::read::<Attributes>(b'X', 31);
    const SET: rustix::ioctl::Opcode = opcode::write::<Attributes>(b'X', 32);

    fn attributes(of: BorrowedFd<'_>) -> rustix::io::Result<Attributes> {
        // SAFETY: the kernel writes one `struct fsxattr`, which `Attributes` is; any bytes are one.
        unsafe { rustix::ioctl::ioctl(of, Getter::<GET, Attributes>::new()) }
    }

    /// The project that this belongs to, and whether it is handed down.
    pub(super) fn project(of: BorrowedFd<'_>) -> rustix::io::Result<(u32, bool)> {
        let attributes = attributes(of)?;
        Ok((attributes.project, attributes.flags & HANDED_DOWN != 0))
    }

    pub(super) fn set_project(of: BorrowedFd<'_>, project: u32, handed_down: bool) -> rustix::io::Result<()> {
        let before = attributes(of)?;
        let flags = if handed_down { before.flags | HANDED_DOWN } else { before.flags & !HANDED_DOWN };
        let attributes = Attributes { flags, project, ..before };
        // SAFETY: the kernel reads one `struct fsxattr`, which `Attributes` is.
        unsafe { rustix::ioctl::ioctl(of, Setter::<SET, Attributes>::new(attributes)) }
    }

    /// `struct fs_disk_quota` of `linux/dqblk_xfs.h`.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct DiskQuota {
        version: i8,
        kind: i8,
        fields: u16,
        id: u32,
        blocks_hard: u64,
        blocks_soft: u64,
        inodes_hard: u64,
        inodes_soft: u64,
        blocks: u64,
        inodes: u64,
        timers: [i32; 2],
        warnings: [u16; 2],
        timers_high: [i8; 4],
        realtime: [u64; 3],
        realtime_timer: i32,
        realtime_warnings: u16,
        padding: [u8; 10],
    }

    const _: () = assert!(size_of::<DiskQuota>() == 112);

    /// `struct fs_quota_statv`.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct State {
        version: i8,
        padding: u8,
        flags: u16,
        rest: [u32; 39],
    }

    const _: () = assert!(size_of::<State>() == 160);

    /// `FS_QUOTA_PDQ_ENFD`: projects are bounded.
    const ENFORCED: u16 = 1 << 5;
    /// `FS_DQ_BHARD | FS_DQ_IHARD`.
    const LIMITS: u16 = 1 << 3 | 1 << 1;
    /// `FS_PROJ_QUOTA`.
    const PROJECT: i8 = 2;
    /// `PRJQUOTA`.
    const OF_PROJECTS: u32 = 2;
    /// `Q_XGETQUOTA`, `Q_XSETQLIM`, `Q_XGETQSTATV`.
    const GET_QUOTA: u32 = 0x5803;
    const SET_LIMITS: u32 = 0x5804;
    const GET_STATE: u32 = 0x5808;

    /// `value` must be what the command reads or writes.
    unsafe fn call<T>(root: BorrowedFd<'_>, command: u32, id: u32, value: &mut T) -> rustix::io::Result<()> {
        let command = command << 8 | OF_PROJECTS;
        let value = std::ptr::from_mut(value);
        // SAFETY: the descriptor is open; that `value` is what the command wants is promised above.
        let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, root.as_raw_fd(), command, id, value) };
        if result == 0 { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)) }
    }

    /// Whether projects are bounded.
    pub(super) fn is_enforced(root: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        let mut state = State { version: 1, padding: 0, flags: 0, rest: [0; 39] };
        // SAFETY: this command writes one `struct fs_quota_statv`.
        unsafe { call(root, GET_STATE, 0, &mut state)? };
        Ok(state.flags & ENFORCED != 0)
    }

    pub(super) fn quota(root: BorrowedFd<'_>, id: u32) -> rustix::io::Result<Bound> {
        let mut quota = DiskQuota::default();
        // SAFETY: this command writes one `struct fs_disk_quota`.
        unsafe { call(root, GET_QUOTA, id, &mut quota)? };
        let extent = |blocks: u64, inodes| Extent { bytes: blocks.saturating_mul(BASIC_BLOCK), entries: inodes };
        Ok(Bound { most: extent(quota.blocks_hard, quota.inodes_hard), used: extent(quota.blocks, quota.inodes) })
    }

    /// Zero is no bound.
    pub(super) fn set_quota(root: BorrowedFd<'_>, id: u32, most: Extent) -> rustix::io::Result<()> {
        let (blocks_hard, inodes_hard) = (most.bytes.div_ceil(BASIC_BLOCK), most.entries);
        let mut quota = DiskQuota {
            version: 1,
            kind: PROJECT,
            fields: LIMITS,
            id,
            blocks_hard,
            inodes_hard,
            ..DiskQuota::default()
        };
        // SAFETY: this command reads one `struct fs_disk_quota`.
        unsafe { call(root, SET_LIMITS, id, &mut quota) }
    }
}
