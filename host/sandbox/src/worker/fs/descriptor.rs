//! The methods of descriptors, as WASI 0.2 has them. Most are the stock ones;
//! each that is not says why. Those of 0.3 (`p3`) call these.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bulkhead_core::event::ChangeKind;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::{Descriptor, File};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode, Filesize,
    Host, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::View;
use super::checks::place;
use super::links::{Tree, stay_inside};
use super::paths::Known;
use super::stream::{Place, Reader, Writer, check_size};

type Fd = Resource<Descriptor>;

impl View<'_> {
    /// The same descriptor once more, for a second question about it.
    fn again(fd: &Fd) -> Fd {
        Resource::new_borrow(fd.rep())
    }

    pub(super) fn file(&self, fd: &Fd) -> FsResult<&File> {
        match self.stock.table.get(fd)? {
            Descriptor::File(file) => Ok(file),
            Descriptor::Dir(_) => Err(ErrorCode::IsDirectory.into()),
        }
    }

    /// Takes bytes of the workspace's quota, or refuses in the guest's words.
    fn take_bytes(&self, bytes: u64) -> FsResult<()> {
        self.call.take_bytes(bytes).map_err(|_| ErrorCode::Quota.into())
    }

    /// Takes an entry.
    fn take_entry(&self) -> FsResult<()> {
        self.call.take_entry().map_err(|_| ErrorCode::Quota.into())
    }

    /// The size of an open file.
    fn size(&self, fd: &Fd) -> FsResult<u64> {
        Ok(self.file(fd)?.file.metadata()?.len())
    }

    /// Gives an entry back if it could not be made after all.
    fn entered<T>(&self, made: FsResult<T>) -> FsResult<T> {
        if made.is_err() {
            self.call.give_entry();
        }
        made
    }

    fn changed(&self, kind: ChangeKind, path: Option<&str>) {
        self.call.changed(kind, path);
    }

    fn changed_at(&self, kind: ChangeKind, fd: u32, path: &str) {
        self.changed(kind, self.paths.join(fd, path).as_deref());
    }

    /// What is at a path, without following it; nothing if that can't be said.
    async fn look(&mut self, fd: &Fd, path: &str) -> Option<DescriptorType> {
        let stat = self.stock.stat_at(Self::again(fd), PathFlags::empty(), path.to_owned()).await;
        stat.ok().map(|stat| stat.type_)
    }

    /// What has to be written to the disk for a descriptor. A directory's own can't be: it
    /// is only a place to look names up from.
    pub(super) fn synced(&self, fd: &Fd) -> FsResult<Arc<std::fs::File>> {
        match self.stock.table.get(fd)? {
            Descriptor::File(file) => Ok(Arc::clone(&file.file)),
            Descriptor::Dir(directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = openat(&*directory.dir, c".", flags, Mode::empty()).map_err(std::io::Error::from)?;
                Ok(Arc::new(opened.into()))
            }
        }
    }

    async fn sync_all_or_data(&mut self, fd: &Fd, all: bool) -> FsResult<()> {
        let file = self.synced(fd)?;
        self.call.syncs.sync(file, all).await.map_err(FsError::from)
    }

    pub(super) fn reader(&self, fd: &Fd, position: Filesize) -> FsResult<Reader> {
        let file = Arc::clone(&self.file(fd)?.file);
        let held = self.stream_places(fd)?;
        Ok(Reader { file, position, call: Arc::clone(self.call), _held: held })
    }

    pub(super) fn writer(&self, fd: &Fd, place: Place) -> FsResult<Writer> {
        let file = match self.stock.table.get(fd)? {
            Descriptor::File(file) => file,
            Descriptor::Dir(_) => return Err(ErrorCode::BadDescriptor.into()),
        };
        if file.perms.write_not_permitted() {
            return Err(ErrorCode::NotPermitted.into());
        }
        let path = self.paths.get(fd.rep()).map(str::to_owned);
        let file = Arc::clone(&file.file);
        let held = self.stream_places(fd)?;
        Ok(Writer { file, place, call: Arc::clone(self.call), path, recorded: false, _held: held })
    }

    fn output(&mut self, writer: Writer) -> FsResult<Resource<DynOutputStream>> {
        let stream: DynOutputStream = Box::new(writer);
        Ok(self.stock.table.push(stream)?)
    }

    /// Checks a move or a link from one place to another, but for the links of a
    /// directory: that, if there is one.
    pub(super) fn check_places(&self, (fd, old): (&Fd, &str), (new_fd, new): (&Fd, &str)) -> FsResult<Option<Tree>> {
        self.checked(fd, old)?;
        self.checked(new_fd, new)?;
        self.check_moved((fd, old), (new_fd, new))
    }

    /// Checks once more after a directory was looked through, if one was: names may
    /// lead elsewhere by now.
    pub(super) fn check_again(&self, looked: Option<Tree>, from: (&Fd, &str), to: (&Fd, &str)) -> FsResult<()> {
        let Some(looked) = looked else { return Ok(()) };
        match self.check_places(from, to)? {
            Some(tree) if !tree.is_covered_by(&looked)? => Err(ErrorCode::Busy.into()),
            _ => Ok(()),
        }
    }

    /// Makes a link whose places were checked.
    pub(super) async fn link(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        old: String,
        new_fd: Fd,
        new: String,
    ) -> FsResult<()> {
        let name = self.paths.join(new_fd.rep(), &new);
        // Each link counts as the file that it is.
        let size = self.stock.stat_at(Self::again(&fd), flags, old.clone()).await?.size;
        self.take_bytes(size)?;
        self.take_entry()?;
        let made = self.stock.link_at(fd, flags, old, new_fd, new).await;
        self.entered(made)?;
        self.changed(ChangeKind::Created, name.as_deref());
        Ok(())
    }

    /// Moves what was checked.
    pub(super) async fn rename(&mut self, fd: Fd, old: String, new_fd: Fd, new: String) -> FsResult<()> {
        let name = self.paths.join(new_fd.rep(), &new);
        let replaced = self.look(&new_fd, &new).await.is_some();
        let (from, again) = (fd.rep(), Self::again(&fd));
        self.stock.rename_at(fd, old.clone(), new_fd, new).await?;
        // Onto itself, or onto another link of the same file, nothing goes: both
        // names are still there, and each would give an entry for nothing.
        if replaced && self.look(&again, &old).await.is_none() {
            self.call.give_entry();
        }
        self.changed_at(ChangeKind::Deleted, from, &old);
        self.changed(if replaced { ChangeKind::Modified } else { ChangeKind::Created }, name.as_deref());
        Ok(())
    }
}

impl Host for View<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.stock.convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        // The stock one knows every error of a stream but this.
        let known = self.stock.table.get(&error)?.downcast_ref::<std::io::Error>();
        let quota = known.and_then(std::io::Error::raw_os_error) == Some(Errno::DQUOT.raw_os_error());
        if quota { Ok(Some(ErrorCode::Quota)) } else { self.stock.filesystem_error_code(error) }
    }
}

impl HostDescriptor for View<'_> {
    async fn advise(&mut self, fd: Fd, offset: Filesize, len: Filesize, advice: Advice) -> FsResult<()> {
        self.stock.advise(fd, offset, len, advice).await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.sync_all_or_data(&fd, false).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.stock.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.stock.get_type(fd).await
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        let path = self.paths.get(fd.rep()).map(str::to_owned);
        let before = self.size(&fd)?;
        check_size(self.call, size, before)?;
        self.take_bytes(size.saturating_sub(before))?;
        self.stock.set_size(fd, size).await?;
        self.call.give_bytes(before.saturating_sub(size));
        self.changed(ChangeKind::Modified, path.as_deref());
        Ok(())
    }

    async fn set_times(&mut self, fd: Fd, accessed: NewTimestamp, modified: NewTimestamp) -> FsResult<()> {
        self.stock.set_times(fd, accessed, modified).await
    }

    async fn read(&mut self, fd: Fd, length: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        let (bytes, end) = self.stock.read(fd, length, offset).await?;
        self.call.read.fetch_add(bytes.len() as u64, Relaxed);
        Ok((bytes, end))
    }

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let end = offset.saturating_add(bytes.len() as u64);
        let size = self.size(&fd)?;
        check_size(self.call, end, size)?;
        self.take_bytes(end.saturating_sub(size))?;
        let path = self.paths.get(fd.rep()).map(str::to_owned);
        let written = self.stock.write(fd, bytes, offset).await?;
        self.call.written.fetch_add(written, Relaxed);
        self.changed(ChangeKind::Modified, path.as_deref());
        Ok(written)
    }

    /// Not linked: `listing` has taken its place.
    async fn read_directory(&mut self, _fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        Err(ErrorCode::Unsupported.into())
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.sync_all_or_data(&fd, true).await
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.checked(&fd, &path)?;
        let name = self.paths.join(fd.rep(), &path);
        self.take_entry()?;
        let made = self.stock.create_directory_at(fd, path).await;
        self.entered(made)?;
        self.changed(ChangeKind::Created, name.as_deref());
        Ok(())
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        self.stock.stat(fd).await
    }

    async fn stat_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.checked(&fd, &path)?;
        self.stock.stat_at(fd, flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.checked(&fd, &path)?;
        self.stock.set_times_at(fd, flags, path, accessed, modified).await
    }

    async fn link_at(&mut self, fd: Fd, flags: PathFlags, old: String, new_fd: Fd, new: String) -> FsResult<()> {
        if let Some(tree) = self.check_places((&fd, &old), (&new_fd, &new))? {
            stay_inside(tree).await?;
        }
        self.link(fd, flags, old, new_fd, new).await
    }

    /// Looks before it opens: opening a pipe would wait for ever, and a device
    /// is no part of a workspace.
    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let depth = self.checked(&fd, &path)?;
        let file = Some(Arc::new(place(self.call)?));
        let before = self.stock.stat_at(Self::again(&fd), path_flags, path.clone()).await.ok();
        match before.as_ref().map(|stat| stat.type_) {
            None | Some(DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink) => {}
            Some(_) => return Err(ErrorCode::NotPermitted.into()),
        }
        let name = self.paths.join(fd.rep(), &path);
        let new = before.is_none() && open.contains(OpenFlags::CREATE);
        if new {
            self.take_entry()?;
        }
        let opened = self.stock.open_at(fd, path_flags, path, open, flags).await;
        let opened = if new { self.entered(opened)? } else { opened? };
        if let Some(before) = before.as_ref().filter(|_| open.contains(OpenFlags::TRUNCATE)) {
            self.call.give_bytes(before.size);
        }
        match before {
            None if open.contains(OpenFlags::CREATE) => self.changed(ChangeKind::Created, name.as_deref()),
            Some(_) if open.contains(OpenFlags::TRUNCATE) => self.changed(ChangeKind::Modified, name.as_deref()),
            _ => {}
        }
        self.paths.insert(opened.rep(), Known { path: name, depth, file });
        Ok(opened)
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.paths.remove(fd.rep());
        HostDescriptor::drop(&mut self.stock, fd)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.checked(&fd, &path)?;
        self.stock.readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.checked(&fd, &path)?;
        let name = self.paths.join(fd.rep(), &path);
        self.stock.remove_directory_at(fd, path).await?;
        self.call.give_entry();
        self.changed(ChangeKind::Deleted, name.as_deref());
        Ok(())
    }

    async fn rename_at(&mut self, fd: Fd, old: String, new_fd: Fd, new: String) -> FsResult<()> {
        if let Some(tree) = self.check_places((&fd, &old), (&new_fd, &new))? {
            stay_inside(tree).await?;
        }
        self.rename(fd, old, new_fd, new).await
    }

    async fn symlink_at(&mut self, fd: Fd, target: String, link: String) -> FsResult<()> {
        self.checked_target(&fd, &link, &target)?;
        let name = self.paths.join(fd.rep(), &link);
        self.check_link(&fd, &link, &target)?;
        self.take_entry()?;
        let made = self.stock.symlink_at(fd, target, link).await;
        self.entered(made)?;
        self.changed(ChangeKind::Created, name.as_deref());
        Ok(())
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.checked(&fd, &path)?;
        let name = self.paths.join(fd.rep(), &path);
        self.stock.unlink_file_at(fd, path).await?;
        // Its bytes count until the call is over: the file may still be open.
        self.call.give_entry();
        self.changed(ChangeKind::Deleted, name.as_deref());
        Ok(())
    }

    fn read_via_stream(&mut self, fd: Fd, position: Filesize) -> FsResult<Resource<DynInputStream>> {
        let stream: DynInputStream = Box::new(self.reader(&fd, position)?);
        Ok(self.stock.table.push(stream)?)
    }

    fn write_via_stream(&mut self, fd: Fd, position: Filesize) -> FsResult<Resource<DynOutputStream>> {
        let writer = self.writer(&fd, Place::At(position))?;
        self.output(writer)
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        let writer = self.writer(&fd, Place::End)?;
        self.output(writer)
    }

    async fn is_same_object(&mut self, one: Fd, two: Fd) -> wasmtime::Result<bool> {
        self.stock.is_same_object(one, two).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        self.stock.metadata_hash(fd).await
    }

    async fn metadata_hash_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<MetadataHashValue> {
        self.checked(&fd, &path)?;
        self.stock.metadata_hash_at(fd, flags, path).await
    }
}

/// Not linked: `listing` has taken its place.
impl HostDirectoryEntryStream for View<'_> {
    async fn read_directory_entry(&mut self, _: Resource<DirectoryEntryStream>) -> FsResult<Option<DirectoryEntry>> {
        Err(ErrorCode::Unsupported.into())
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.stock, stream)
    }
}
