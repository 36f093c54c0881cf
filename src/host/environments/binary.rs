//! The copy of our binary that keeps environments' containers alive.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::file;

/// Where it is; made, or replaced by this version of us, if need be. The path stays, for Docker looks it up at every start of a
/// container; who runs the file that was there keeps it.
///
/// # Errors
/// The io error, with the path.
pub(super) fn prepare(home: &Path) -> io::Result<PathBuf> {
    // Also when the file was replaced or removed since we were started, this is what we are.
    let own = Path::new("/proc/self/exe");
    let copy = home.join("bin").join("hakuriver");
    let at = |fault: io::Error| io::Error::new(fault.kind(), format!("cannot write {}: {fault}", copy.display()));
    if is_newer(&copy, own).map_err(at)? {
        return Ok(copy);
    }
    let folder = home.join("bin");
    file::make_dir(&folder, 0o711)?;
    file::copy_program(own, &copy).map_err(at)?;
    Ok(copy)
}

/// The copy is as long as the original, and was made after it.
fn is_newer(copy: &Path, own: &Path) -> io::Result<bool> {
    let own = fs::metadata(own)?;
    let Ok(copy) = fs::metadata(copy) else { return Ok(false) };
    Ok(copy.len() == own.len() && copy.modified()? >= own.modified()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn the_copy_is_made_once_and_replaced_by_another_version() {
        let scratch = Scratch::new();
        let copy = prepare(scratch.path()).expect("it can be copied");
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("it is there"));
        let first = inode(&copy);
        assert_eq!(prepare(scratch.path()).expect("it is there"), copy);
        assert_eq!(inode(&copy), first, "it is there already");
        fs::remove_file(&copy).expect("removed");
        fs::write(&copy, "an older one").expect("written");
        prepare(scratch.path()).expect("it can be replaced");
        let size = |path: &Path| fs::metadata(path).expect("it is there").len();
        assert_eq!(size(&copy), size(Path::new("/proc/self/exe")));
        assert_eq!(fs::metadata(&copy).expect("it is there").permissions().mode() & 0o777, 0o555);
    }
}
