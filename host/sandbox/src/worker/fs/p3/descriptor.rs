//! The methods of descriptors, as WASI 0.3 has them: asynchronous in form. Each
//! is done at once and as a whole, so that no other task of the guest can come
//! between its checks and what it does; the two that take long say how they hold.

use std::future::Future;

use futures::FutureExt as _;
use wasmtime::component::{Access, Accessor, FutureReader, Resource, StreamReader};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode as Code, HostDescriptor as _};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, Filesize,
    HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

use super::super::View;
use super::super::links::{Tree, stay_inside};
use super::super::listing::Listing;
use super::super::stream::Place;
use super::Files;
use super::convert::{advice, error, held, kind, open_flags, path_flags, stat, time, wanted};
use super::stream::{Ending, Listed, Reading, Writing};

type Fd = Resource<Descriptor>;
type Told = FutureReader<Result<(), ErrorCode>>;

/// What a method of 0.2 says that has nothing to wait for.
fn said<T>(future: impl Future<Output = FsResult<T>>) -> FilesystemResult<T> {
    let waits = || FilesystemError::trap(wasmtime::format_err!("a method of a file waits"));
    future.now_or_never().ok_or_else(waits)?.map_err(error)
}

/// The method of 0.2.
macro_rules! at_once {
    ($store:expr, |$view:ident| $future:expr) => {
        $store.with(|mut access| {
            let mut $view = access.get();
            said($future)
        })
    };
}

/// The code of an error; what ends the guest does.
fn code(error: FilesystemError) -> wasmtime::Result<ErrorCode> {
    error.downcast()
}

/// Has a tree looked at before it is moved or linked to; gives it if there was
/// one. The guest goes on meanwhile, but it can neither make nor move a link
/// until that is done.
async fn look<U>(
    store: &Accessor<U, Files>,
    check: impl FnOnce(&View<'_>) -> FsResult<Option<Tree>>,
) -> FilesystemResult<Option<Tree>> {
    let tree = store.with(|mut access| {
        let view = access.get();
        check(&view).map(|tree| tree.map(|tree| (tree, view.looking())))
    });
    let Some((tree, _looking)) = tree.map_err(error)? else { return Ok(None) };
    stay_inside(tree.again().map_err(error)?).await.map_err(error)?;
    Ok(Some(tree))
}

/// Has what a descriptor names written to the disk, when its user may.
async fn sync<U>(store: &Accessor<U, Files>, fd: &Fd, all: bool) -> FilesystemResult<()> {
    let found = store.with(|mut access| {
        let view = access.get();
        view.synced(fd).map(|file| (file, view.call.syncs.clone()))
    });
    let (file, syncs) = found.map_err(error)?;
    syncs.sync(file, all).await.map_err(|failed| error(failed.into()))
}

/// Joins a guest's stream to a file.
fn write<U: 'static>(
    mut store: Access<'_, U, Files>,
    fd: &Fd,
    mut data: StreamReader<u8>,
    place: Place,
) -> wasmtime::Result<Told> {
    let (mut ending, told) = Ending::new();
    let writer = store.get().writer(fd, place);
    match writer.map_err(error) {
        Ok(writer) => data.pipe(&mut store, Writing { writer, ending })?,
        Err(failed) => {
            ending.tell(Err(code(failed)?));
            data.close(&mut store)?;
        }
    }
    FutureReader::new(&mut store, told)
}

impl<U: 'static> HostDescriptorWithStore<U> for Files {
    fn read_via_stream(
        mut store: Access<'_, U, Self>,
        fd: Fd,
        offset: Filesize,
    ) -> wasmtime::Result<(StreamReader<u8>, Told)> {
        let (mut ending, told) = Ending::new();
        let reader = store.get().reader(&fd, offset);
        let stream = match reader.map_err(error) {
            Ok(reader) => StreamReader::new(&mut store, Reading { reader, ending, since: 0 })?,
            Err(failed) => {
                ending.tell(Err(code(failed)?));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut store, told)?))
    }

    fn write_via_stream(
        store: Access<'_, U, Self>,
        fd: Fd,
        data: StreamReader<u8>,
        offset: Filesize,
    ) -> wasmtime::Result<Told> {
        write(store, &fd, data, Place::At(offset))
    }

    fn append_via_stream(store: Access<'_, U, Self>, fd: Fd, data: StreamReader<u8>) -> wasmtime::Result<Told> {
        write(store, &fd, data, Place::End)
    }

    async fn advise(
        store: &Accessor<U, Self>,
        fd: Fd,
        offset: Filesize,
        length: Filesize,
        how: Advice,
    ) -> FilesystemResult<()> {
        at_once!(store, |view| view.advise(fd, offset, length, advice(how)))
    }

    async fn sync_data(store: &Accessor<U, Self>, fd: Fd) -> FilesystemResult<()> {
        sync(store, &fd, false).await
    }

    async fn get_flags(store: &Accessor<U, Self>, fd: Fd) -> FilesystemResult<DescriptorFlags> {
        at_once!(store, |view| view.get_flags(fd)).map(held)
    }

    async fn get_type(store: &Accessor<U, Self>, fd: Fd) -> FilesystemResult<DescriptorType> {
        at_once!(store, |view| view.get_type(fd)).map(kind)
    }

    async fn set_size(store: &Accessor<U, Self>, fd: Fd, size: Filesize) -> FilesystemResult<()> {
        at_once!(store, |view| view.set_size(fd, size))
    }

    async fn set_times(
        store: &Accessor<U, Self>,
        fd: Fd,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let (accessed, modified) = (time(accessed)?, time(modified)?);
        at_once!(store, |view| view.set_times(fd, accessed, modified))
    }

    fn read_directory(
        mut store: Access<'_, U, Self>,
        fd: Fd,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, Told)> {
        let (mut ending, told) = Ending::new();
        let view = store.get();
        let listing = match view.stock.table.get(&fd)? {
            Descriptor::Dir(directory) => Listing::begin(&directory.dir, view.call),
            Descriptor::File(_) => Err(Code::NotDirectory),
        };
        let stream = match listing {
            Ok(listing) => StreamReader::new(&mut store, Listed { listing, ending })?,
            Err(failed) => {
                ending.tell(Err(super::convert::code(failed)));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut store, told)?))
    }

    async fn sync(store: &Accessor<U, Self>, fd: Fd) -> FilesystemResult<()> {
        sync(store, &fd, true).await
    }

    async fn create_directory_at(store: &Accessor<U, Self>, fd: Fd, path: String) -> FilesystemResult<()> {
        at_once!(store, |view| view.create_directory_at(fd, path))
    }

    async fn stat(store: &Accessor<U, Self>, fd: Fd) -> FilesystemResult<DescriptorStat> {
        at_once!(store, |view| view.stat(fd)).map(stat)
    }

    async fn stat_at(
        store: &Accessor<U, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        at_once!(store, |view| view.stat_at(fd, path_flags(flags), path)).map(stat)
    }

    async fn set_times_at(
        store: &Accessor<U, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let (accessed, modified) = (time(accessed)?, time(modified)?);
        at_once!(store, |view| view.set_times_at(fd, path_flags(flags), path, accessed, modified))
    }

    async fn link_at(
        store: &Accessor<U, Self>,
        fd: Fd,
        flags: PathFlags,
        old: String,
        new_fd: Fd,
        new: String,
    ) -> FilesystemResult<()> {
        let looked = look(store, |view| view.check_places((&fd, &old), (&new_fd, &new))).await?;
        store.with(|mut access| {
            let mut view = access.get();
            view.check_again(looked, (&fd, &old), (&new_fd, &new)).map_err(error)?;
            said(view.link(fd, path_flags(flags), old, new_fd, new))
        })
    }

    async fn open_at(
        store: &Accessor<U, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
        open: OpenFlags,
        rights: DescriptorFlags,
    ) -> FilesystemResult<Fd> {
        at_once!(store, |view| view.open_at(fd, path_flags(flags), path, open_flags(open), wanted(rights)))
    }

    async fn readlink_at(store: &Accessor<U, Self>, fd: Fd, path: String) -> FilesystemResult<String> {
        at_once!(store, |view| view.readlink_at(fd, path))
    }

    async fn remove_directory_at(store: &Accessor<U, Self>, fd: Fd, path: String) -> FilesystemResult<()> {
        at_once!(store, |view| view.remove_directory_at(fd, path))
    }

    async fn rename_at(
        store: &Accessor<U, Self>,
        fd: Fd,
        old: String,
        new_fd: Fd,
        new: String,
    ) -> FilesystemResult<()> {
        let looked = look(store, |view| view.check_places((&fd, &old), (&new_fd, &new))).await?;
        store.with(|mut access| {
            let mut view = access.get();
            view.check_again(looked, (&fd, &old), (&new_fd, &new)).map_err(error)?;
            said(view.rename(fd, old, new_fd, new))
        })
    }

    async fn symlink_at(store: &Accessor<U, Self>, fd: Fd, target: String, link: String) -> FilesystemResult<()> {
        at_once!(store, |view| view.symlink_at(fd, target, link))
    }

    async fn unlink_file_at(store: &Accessor<U, Self>, fd: Fd, path: String) -> FilesystemResult<()> {
        at_once!(store, |view| view.unlink_file_at(fd, path))
    }

    async fn is_same_object(store: &Accessor<U, Self>, fd: Fd, other: Fd) -> wasmtime::Result<bool> {
        let same = store.with(|mut access| access.get().is_same_object(fd, other).now_or_never());
        same.ok_or_else(|| wasmtime::format_err!("a method of a file waits"))?
    }

    async fn metadata_hash(store: &Accessor<U, Self>, fd: Fd) -> FilesystemResult<MetadataHashValue> {
        let hash = at_once!(store, |view| view.metadata_hash(fd))?;
        Ok(MetadataHashValue { lower: hash.lower, upper: hash.upper })
    }

    async fn metadata_hash_at(
        store: &Accessor<U, Self>,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        let hash = at_once!(store, |view| view.metadata_hash_at(fd, path_flags(flags), path))?;
        Ok(MetadataHashValue { lower: hash.lower, upper: hash.upper })
    }
}
