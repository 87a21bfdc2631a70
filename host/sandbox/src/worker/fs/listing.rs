//! Listings of directories: read from the kernel a batch at a time, when the
//! guest asks for the next entry. The stock implementation reads a directory
//! whole as soon as a listing is begun, into memory that no limit counts. Here
//! the time is the guest's, and what is held is one batch and one descriptor.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat};
use rustix::io::Errno;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::super::call::Call;
use super::super::state::State;
use super::super::tally::Held;
use super::checks::place;
use crate::bounds::LISTING_BATCH;
use crate::wire::StreamLimit;

/// The interface as the stock implementation names it.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

/// A listing that a guest has open.
pub(super) struct Listing {
    /// Of its own, since the kernel keeps the position in it.
    directory: OwnedFd,
    batch: VecDeque<(Vec<u8>, FileType)>,
    /// Nothing more is read.
    ended: bool,
    /// How many entries may still be given.
    left: u64,
    call: Arc<Call>,
    _held: Held,
}

/// Puts listings in the place of the stock ones; the linker must allow it.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.resource("directory-entry-stream", ResourceType::host::<Listing>(), |mut store, rep| {
        store.data_mut().table.delete::<Listing>(Resource::new_own(rep))?;
        Ok(())
    })?;
    types.func_wrap("[method]descriptor.read-directory", begin)?;
    types.func_wrap("[method]directory-entry-stream.read-directory-entry", next)
}

fn begin(
    mut store: StoreContextMut<'_, State>,
    (directory,): (Resource<Descriptor>,),
) -> wasmtime::Result<(Result<Resource<Listing>, ErrorCode>,)> {
    let State { table, call, .. } = store.data_mut();
    let listing = match table.get(&directory)? {
        Descriptor::Dir(directory) => Listing::begin(&directory.dir, call),
        Descriptor::File(_) => Err(ErrorCode::NotDirectory),
    };
    Ok((match listing {
        Ok(listing) => Ok(table.push(listing)?),
        Err(code) => Err(code),
    },))
}

fn next(
    mut store: StoreContextMut<'_, State>,
    (listing,): (Resource<Listing>,),
) -> wasmtime::Result<(Result<Option<DirectoryEntry>, ErrorCode>,)> {
    Ok((store.data_mut().table.get_mut(&listing)?.next(),))
}

impl Listing {
    pub(super) fn begin(directory: impl AsFd, call: &Arc<Call>) -> Result<Self, ErrorCode> {
        let held = place(call)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(directory, c".", flags, Mode::empty()).map_err(code)?;
        let left = call.limits.listing_entries;
        let call = call.clone();
        Ok(Self { directory, batch: VecDeque::new(), ended: false, left, call, _held: held })
    }

    /// The next entry. After the limit, or after the kernel failed, there is one
    /// error and then nothing.
    pub(super) fn next(&mut self) -> Result<Option<DirectoryEntry>, ErrorCode> {
        while self.batch.is_empty() && !self.ended {
            self.read().inspect_err(|_| self.ended = true)?;
        }
        let Some((name, kind)) = self.batch.pop_front() else { return Ok(None) };
        let Some(left) = self.left.checked_sub(1) else {
            (self.batch, self.ended) = (VecDeque::new(), true);
            self.call.truncated(StreamLimit::ListingEntries);
            return Err(ErrorCode::Overflow);
        };
        self.left = left;
        let name = String::from_utf8(name).map_err(|_| ErrorCode::IllegalByteSequence)?;
        Ok(Some(DirectoryEntry { type_: described(kind), name }))
    }

    /// Reads one batch: as much as the kernel gives at once.
    fn read(&mut self) -> Result<(), ErrorCode> {
        let mut buffer = [MaybeUninit::uninit(); LISTING_BATCH];
        let mut entries = RawDir::new(&self.directory, &mut buffer);
        loop {
            match entries.next() {
                // A directory that was removed has no more entries.
                None | Some(Err(Errno::NOENT)) => {
                    self.ended = true;
                    return Ok(());
                }
                Some(Err(Errno::INTR)) => continue,
                Some(Err(error)) => return Err(code(error)),
                Some(Ok(entry)) if [c".", c".."].contains(&entry.file_name()) => {}
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if let Some(kind) = self.kind(name, entry.file_type())? {
                        self.batch.push_back((name.to_bytes().to_vec(), kind));
                    }
                }
            }
            if entries.is_buffer_empty() {
                return Ok(());
            }
        }
    }

    /// What an entry is, if the directory says it; else by looking. Nothing if
    /// it is gone.
    fn kind(&self, name: &CStr, said: FileType) -> Result<Option<FileType>, ErrorCode> {
        if said != FileType::Unknown {
            return Ok(Some(said));
        }
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(code(error)),
        }
    }
}

/// The kernel's error in the guest's words.
fn code(error: Errno) -> ErrorCode {
    std::io::Error::from(error).into()
}

/// A kind of file in the guest's words, which have none for pipes and sockets.
fn described(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        _ => DescriptorType::Unknown,
    }
}
