//! Files that matter: written under a temporary name, synced, renamed, and their folder synced.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::fault::{file_name, step};

mod lock;

pub use lock::Lock;

/// Replaces `path` with `content` so that a crash leaves the old or the new content, never a part; mode as given,
/// whatever the umask.
///
/// A crash may leave a file `.<name>.<random>.tmp` beside it, which means nothing.
///
/// # Errors
/// The io error, with the path in its message.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    #[cfg(test)]
    if let Some(world) = super::simulated::world() {
        world.writes(path);
        // What is simulated loses no power: nothing has to reach a disk.
        replace_with(path, content, mode, Durable::No)?;
        world.writes(path);
        return Ok(());
    }
    let _step = step("write", || file_name(path));
    sync_dir(replace_with(path, content, mode, Durable::Yes)?)
}

/// As [`write_atomic`] for those who read it meanwhile, but without waiting for the disk: for what is written anew at each start.
///
/// # Errors
/// The io error, with the path in its message.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let _step = step("write", || file_name(path));
    replace_with(path, content, mode, Durable::No).map(|_folder| ())
}

#[derive(Clone, Copy, PartialEq)]
enum Durable {
    Yes,
    No,
}

/// The folder is the answer.
fn replace_with<'a>(path: &'a Path, content: &[u8], mode: u32, durable: Durable) -> io::Result<&'a Path> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file name", path.display())));
    };
    let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), super::random::hex(6)));
    let written = write_new(&temporary, content, mode, durable).and_then(|()| rename(&temporary, path));
    match written {
        Ok(()) => Ok(folder),
        Err(fault) => {
            let _not_made = remove(&temporary);
            Err(at("write", path, &fault))
        }
    }
}

fn write_new(path: &Path, content: &[u8], mode: u32, durable: Durable) -> io::Result<()> {
    // O_EXCL: in a folder that others may write to, a link under this name is not followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o700).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    if durable == Durable::Yes { file.sync_all() } else { Ok(()) }
}

/// Gives a file another name, in place of what has that one. Durable once its folder is: [`sync_dir`].
///
/// # Errors
/// The io error, without the paths.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let _step = step("rename", || file_name(to));
    fs::rename(from, to)
}

/// Removes a file. That it is not there is no error.
///
/// # Errors
/// The io error, without the path.
pub fn remove(path: &Path) -> io::Result<()> {
    let _step = step("remove", || file_name(path));
    match fs::remove_file(path) {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
        _ => Ok(()),
    }
}

/// Removes a file, and makes that durable, which needs no room: true if it was there.
///
/// # Errors
/// The io error, with the path in its message. Whether it is there is not known then.
pub fn take(path: &Path) -> io::Result<bool> {
    let removal = step("remove", || file_name(path));
    match fs::remove_file(path) {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(false),
        removed => removed.map_err(|fault| at("remove", path, &fault))?,
    }
    drop(removal);
    sync_dir(path.parent().unwrap_or(Path::new("."))).map(|()| true)
}

/// Copies a program so that a crash leaves a whole one or none: executable for all, synced and renamed.
///
/// # Errors
/// The io error, without the paths.
pub fn copy_program(from: &Path, to: &Path) -> io::Result<()> {
    let _step = step("write", || file_name(to));
    let folder = to.parent().unwrap_or(Path::new("."));
    let temporary = folder.join(format!(".{}.tmp", super::random::hex(6)));
    let copied = fs::copy(from, &temporary)
        .and_then(|_| fs::set_permissions(&temporary, Permissions::from_mode(0o555)))
        .and_then(|()| File::open(&temporary)?.sync_all())
        .and_then(|()| rename(&temporary, to));
    if copied.is_err() {
        let _not_made = remove(&temporary);
    }
    copied.and_then(|()| sync_dir(folder))
}

/// A file to append to, made for us alone if it is not there; never through a link.
///
/// # Errors
/// The io error, with the path in its message.
pub fn append_to(path: &Path) -> io::Result<File> {
    let _step = step("open", || file_name(path));
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path);
    file.map_err(|fault| at("open", path, &fault))
}

/// A file that is there, to be written to at any place; never through a link.
///
/// # Errors
/// The io error, with the path in its message.
pub fn write_to(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
    file.map_err(|fault| at("open", path, &fault))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The io error, with the path in its message.
pub fn sync_dir(folder: &Path) -> io::Result<()> {
    // The parent of a plain file name is the empty path, which means here.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let _step = step("sync", || file_name(folder));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|fault| at("sync the folder", folder, &fault))
}

/// Reads a regular file that someone else may have made: no link is followed, and more than `limit` bytes are refused.
///
/// Only the last part of the path may be hostile: the folder must be one that nobody else can replace.
///
/// # Errors
/// The io error, with the path in its message.
pub fn read_foreign(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let fault = |fault: &io::Error| at("read", path, fault);
    let file = open_foreign(path, OpenOptions::new().read(true)).map_err(|e| fault(&e))?;
    let mut content = Vec::new();
    let more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(more).read_to_end(&mut content).map_err(|e| fault(&e))?;
    if content.len() > limit {
        let reason = format!("it has more than {limit} bytes");
        return Err(fault(&io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    Ok(content)
}

/// Opens a regular file, where someone else may have put anything: no link is followed, and what is no regular file is
/// refused (`InvalidInput`) without waiting for it.
///
/// Only the last part of the path may be hostile: the folder must be one that nobody else can replace.
///
/// # Errors
/// The io error, without the path.
pub fn open_foreign(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // O_NONBLOCK: a named pipe would hold us for ever; O_NOFOLLOW: a link might show us any file of this machine.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.custom_flags(flags).open(path).map_err(|fault| match fault.raw_os_error() {
        // A link; a pipe that nobody reads; a folder.
        Some(libc::ELOOP | libc::ENXIO | libc::EISDIR) => odd(),
        _ => fault,
    })?;
    regular(file)
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(odd()) }
}

/// Opens a regular file to read it, wherever links lead; what is none is refused (`InvalidInput`) without waiting for it.
///
/// # Errors
/// The io error, without the path.
pub fn open_regular(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?)
}

/// Removes a folder and all that is in it, however deep: somebody hostile may have filled it, though nobody writes there
/// any more. No link is followed. That it is not there is no error.
///
/// Folders within folders are moved up before they are emptied, so neither descriptors nor stack grow with the depth
/// (`remove_dir_all` holds one descriptor and one frame for each level).
///
/// # Errors
/// The io error, with the path in its message.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let _step = step("remove", || file_name(path));
    let with_path =
        |fault: io::Error| io::Error::new(fault.kind(), format!("cannot remove {}: {fault}", path.display()));
    match fs::symlink_metadata(path) {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(fault) => return Err(with_path(fault)),
        Ok(seen) if !seen.is_dir() => return fs::remove_file(path).map_err(with_path),
        Ok(_) => {}
    }
    empty(path).and_then(|()| fs::remove_dir(path)).map_err(with_path)
}

fn empty(top: &Path) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let mut found = false;
        for entry in fs::read_dir(top)? {
            let entry = entry?;
            found = true;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                fs::remove_file(&path)?;
                continue;
            }
            for inner in fs::read_dir(&path)? {
                let inner = inner?;
                if inner.file_type()?.is_dir() {
                    let place = free_name(top, &mut moved)?;
                    fs::rename(inner.path(), place)?;
                } else {
                    fs::remove_file(inner.path())?;
                }
            }
            fs::remove_dir(&path)?;
        }
        if !found {
            return Ok(());
        }
    }
}

/// A name in `top` that nothing has.
fn free_name(top: &Path, last: &mut u64) -> io::Result<std::path::PathBuf> {
    loop {
        *last += 1;
        let place = top.join(format!("moved-{last}"));
        match fs::symlink_metadata(&place) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(place),
            Err(fault) => return Err(fault),
            Ok(_) => {}
        }
    }
}

/// Makes a directory (and its parents) with `mode` if it is not there; those that are there stay as they are.
///
/// # Errors
/// The io error, with the path in its message.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dir(parent, mode)?;
    }
    let _step = step("folder", || file_name(path));
    match DirBuilder::new().mode(mode).create(path) {
        // Made by someone else at the same moment.
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(fault) => Err(at("make the folder", path, &fault)),
        Ok(()) => {
            // The umask may have taken bits away.
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| at("set the mode of", path, &e))?;
            sync_dir(parent.unwrap_or(Path::new(".")))
        }
    }
}

/// The same kind of error, saying what was done to which path.
fn at(what: &str, path: &Path, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("cannot {what} {}: {fault}", path.display()))
}

/// A folder of its own for a test, gone when it is dropped.
#[cfg(test)]
pub(crate) struct Scratch(std::path::PathBuf);

#[cfg(test)]
impl Scratch {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("hakuriver-test-{}", super::random::hex(8)));
        fs::create_dir(&path).expect("a temporary folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        let _absent = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_removed_however_deep_and_links_in_it_are_not_followed() {
        let scratch = Scratch::new();
        let kept = scratch.0.join("kept");
        fs::create_dir(&kept).expect("it can be made");
        fs::write(kept.join("file"), "x").expect("it can be written");
        let top = scratch.0.join("top");
        fs::create_dir(&top).expect("it can be made");
        // Built from the inside out, since a path of that length cannot be said.
        let built = scratch.0.join("built");
        for level in 0..5_000 {
            fs::create_dir(&built).expect("it can be made");
            if level == 0 {
                fs::write(built.join("moved-1"), "x").expect("it can be written");
                std::os::unix::fs::symlink(&kept, built.join("link")).expect("it can be made");
            } else {
                fs::rename(&top, built.join("deeper")).expect("it can be moved");
            }
            if level == 0 {
                fs::remove_dir(&top).expect("it is empty");
            }
            fs::rename(&built, &top).expect("it can be moved");
        }
        remove_tree(&top).expect("it can be removed");
        assert!(!top.exists() && kept.join("file").exists());
        remove_tree(&top).expect("that it is not there is no error");
    }
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_stays_beside_it() {
        let scratch = Scratch::new();
        let path = scratch.path().join("record.json");
        write_atomic(&path, b"first, and longer", 0o600).expect("it can be written");
        write_atomic(&path, b"second", 0o666).expect("it can be replaced");
        assert_eq!(fs::read(&path).expect("it is there"), b"second");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o7777, 0o666);
        assert_eq!(fs::read_dir(scratch.path()).expect("it is a folder").count(), 1);
    }

    #[test]
    fn a_program_is_copied_whole_or_not_at_all() {
        let scratch = Scratch::new();
        let copy = scratch.path().join("copy");
        copy_program(Path::new("/proc/self/exe"), &copy).expect("it can be copied");
        assert_eq!(fs::metadata(&copy).expect("it is there").permissions().mode() & 0o7777, 0o555);
        copy_program(scratch.path(), &scratch.path().join("none")).expect_err("a folder is no program");
        assert_eq!(fs::read_dir(scratch.path()).expect("it is a folder").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_alone_and_names_the_path() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("taken");
        fs::create_dir(&folder).expect("it can be made");
        let fault = write_atomic(&folder, b"x", 0o600).expect_err("a folder is in the way");
        assert!(fault.to_string().contains("/taken"), "{fault}");
        assert_eq!(fs::read_dir(scratch.path()).expect("it is a folder").count(), 1);
        let absent = write_atomic(&scratch.path().join("a/b"), b"x", 0o600).expect_err("no such folder");
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(write_atomic(Path::new("/"), b"x", 0o600).is_err());
    }

    #[test]
    fn foreign_files_are_regular_small_and_no_links() {
        let scratch = Scratch::new();
        let file = scratch.path().join("phase");
        fs::write(&file, "12345").expect("it can be written");
        assert_eq!(read_foreign(&file, 5).expect("it fits"), b"12345");
        assert_eq!(read_foreign(&file, 4).expect_err("it does not fit").kind(), io::ErrorKind::FileTooLarge);
        let link = scratch.path().join("link");
        symlink(&file, &link).expect("a link can be made");
        assert!(read_foreign(&link, 5).is_err(), "a link is not followed");
        let pipe = scratch.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe can be made");
        assert!(read_foreign(&pipe, 5).is_err(), "a pipe is not waited for");
        assert!(read_foreign(scratch.path(), 5).is_err(), "a folder is not read");
        assert!(read_foreign(Path::new("/dev/zero"), 5).is_err(), "a device is not read");
    }

    #[test]
    fn folders_are_made_with_their_parents_and_their_mode() {
        let scratch = Scratch::new();
        let path = scratch.path().join("a/b/c");
        make_dir(&path, 0o711).expect("it can be made");
        make_dir(&path, 0o700).expect("it is there");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o7777, 0o711);
        fs::write(scratch.path().join("file"), "").expect("it can be written");
        let fault = make_dir(&scratch.path().join("file/x"), 0o700).expect_err("a file is in the way");
        assert!(fault.to_string().contains("/file"), "{fault}");
    }

    #[test]
    fn a_lock_is_held_once_and_let_go() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let held = Lock::try_take(&path).expect("it can be opened").expect("it is free");
        assert!(Lock::try_take(&path).expect("it can be opened").is_none());
        assert!(Lock::try_share(&path).expect("it can be opened").is_none());
        drop(held);
        let shared = [(); 2].map(|()| Lock::try_share(&path).expect("it can be opened").expect("it can be shared"));
        assert!(Lock::try_take(&path).expect("it can be opened").is_none());
        drop(shared);
        assert!(Lock::try_take(&path).expect("it can be opened").is_some());
        assert!(Lock::try_take(&scratch.path().join("a/lock")).is_err());
    }
}
