//! The objects that an object needs: found by what its dynamic section says, as ld.so(8) finds them, and without running
//! or mapping any of them.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::elf;
use crate::error::Fault;

/// The most objects that one needs, directly and not.
const MOST: usize = 128;
/// Where the linker's cache is.
const CACHE: &str = "/etc/ld.so.cache";

/// An object that is needed.
pub(crate) struct Needed {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Finds what the object of this path and content needs beside the objects of `linked`, which are there already, in the
/// order in which it is named.
///
/// # Errors
/// What is not found, with the words of the dynamic linker, and what cannot be read.
pub(crate) fn find(
    path: &Path,
    bytes: &[u8],
    linked: &[PathBuf],
    read: impl Fn(&Path) -> Result<Vec<u8>, Fault>,
) -> Result<Vec<Needed>, Fault> {
    let mut known: HashSet<Vec<u8>> =
        linked.iter().filter_map(|file| file.file_name()).map(|name| name.as_bytes().to_vec()).collect();
    let cache = fs::read(CACHE).unwrap_or_default();
    let mut found = Vec::new();
    let mut queue = VecDeque::from([(path.to_owned(), elf::dynamic(bytes))]);
    while let Some((of, dynamic)) = queue.pop_front() {
        for name in &dynamic.needed {
            if !known.insert(name.clone()) {
                continue;
            }
            if found.len() == MOST {
                return Err(Fault::Nonsense(format!("it needs more than {MOST} other objects")));
            }
            let place = place(name, &of, &dynamic, &cache).ok_or_else(|| {
                let name = crate::log::printable(&String::from_utf8_lossy(name));
                Fault::Link(format!("{name}: cannot open shared object file: No such file or directory"))
            })?;
            let bytes = read(&place)?;
            elf::check(&bytes)?;
            let dynamic = elf::dynamic(&bytes);
            known.extend(dynamic.soname.clone());
            queue.push_back((place, dynamic));
            found.push(Needed { name: String::from_utf8_lossy(name).into_owned(), bytes });
        }
    }
    Ok(found)
}

/// Where an object of this name is that another one needs.
fn place(name: &[u8], of: &Path, dynamic: &elf::Dynamic, cache: &[u8]) -> Option<PathBuf> {
    let is_object = |path: &PathBuf| path.is_file();
    if name.contains(&b'/') {
        return Some(PathBuf::from(OsStr::from_bytes(name))).filter(is_object);
    }
    let name = OsStr::from_bytes(name);
    let of = fs::canonicalize(of).unwrap_or_else(|_| of.to_owned());
    let origin = of.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes().to_vec();
    let list = |text: &[u8]| -> Vec<PathBuf> {
        text.split(|b| *b == b':')
            .filter(|dir| !dir.is_empty())
            .map(|dir| PathBuf::from(OsStr::from_bytes(&replaced(dir, &origin))))
            .collect()
    };
    let mut directories = Vec::new();
    if dynamic.runpath.is_none() {
        directories.extend(dynamic.rpath.as_deref().map(list).unwrap_or_default());
    }
    directories
        .extend(std::env::var_os("LD_LIBRARY_PATH").map(|text| list(text.as_bytes())).unwrap_or_default());
    directories.extend(dynamic.runpath.as_deref().map(list).unwrap_or_default());
    let in_directory = directories.iter().map(|dir| dir.join(name)).find(is_object);
    let in_cache = || cached(cache, name.as_bytes()).filter(is_object);
    let by_default = || DEFAULT.iter().map(|dir| Path::new(dir).join(name)).find(is_object);
    in_directory.or_else(in_cache).or_else(by_default)
}

/// Where the linker looks last.
const DEFAULT: &[&str] = &[
    if cfg!(target_arch = "x86_64") { "/lib/x86_64-linux-gnu" } else { "/lib/aarch64-linux-gnu" },
    if cfg!(target_arch = "x86_64") { "/usr/lib/x86_64-linux-gnu" } else { "/usr/lib/aarch64-linux-gnu" },
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// A directory with `$ORIGIN` replaced.
fn replaced(dir: &[u8], origin: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = dir;
    while let Some((&first, tail)) = rest.split_first() {
        let token = [b"$ORIGIN".as_slice(), b"${ORIGIN}"].into_iter().find(|token| rest.starts_with(token));
        match token {
            Some(token) => {
                out.extend(origin);
                rest = &rest[token.len()..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const CACHE_HEADER: usize = 48;
const CACHE_ENTRY: usize = 24;
/// `FLAG_ELF_LIBC6` with the architecture's own flag (glibc, sysdeps/generic/ldconfig.h).
const CACHE_FLAGS: u32 = if cfg!(target_arch = "x86_64") {
    0x0303
} else if cfg!(target_arch = "aarch64") {
    0x0a03
} else {
    0x1003
};

/// What the linker's cache says of a name: its first entry for any processor of this architecture.
fn cached(cache: &[u8], name: &[u8]) -> Option<PathBuf> {
    let word = |at: usize| -> Option<u32> {
        cache.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
    };
    let text = |at: u32| -> Option<&[u8]> {
        let rest = cache.get(at as usize..)?;
        rest.split(|b| *b == 0).next()
    };
    if !cache.starts_with(CACHE_MAGIC) {
        return None;
    }
    let entries = cache.get(CACHE_HEADER..)?.len() / CACHE_ENTRY;
    let count = (word(CACHE_MAGIC.len())? as usize).min(entries);
    (0..count).map(|index| CACHE_HEADER + index * CACHE_ENTRY).find_map(|at| {
        let any_processor = word(at + 16)? == 0 && word(at + 20)? == 0;
        if word(at)? != CACHE_FLAGS || !any_processor || text(word(at + 4)?)? != name {
            return None;
        }
        text(word(at + 8)?).map(|path| PathBuf::from(OsStr::from_bytes(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_of_this_machine_names_its_libc() {
        let cache = fs::read(CACHE).unwrap();
        let libc = cached(&cache, b"libc.so.6").unwrap();
        assert!(elf::check(&fs::read(&libc).unwrap()).is_ok(), "{libc:?}");
        assert_eq!(cached(&cache, b"libnosuch.so.1"), None);
        // One that is cut off or made of anything else is a cache with fewer names.
        for length in (0..cache.len()).step_by(997) {
            cached(&cache[..length], b"libc.so.6");
        }
        let mut wild = cache.clone();
        wild[CACHE_MAGIC.len()..].iter_mut().for_each(|byte| *byte ^= 0xff);
        assert_eq!(cached(&wild, b"libc.so.6"), None);
    }

    #[test]
    fn what_our_own_executable_needs_is_found() {
        let own = fs::canonicalize("/proc/self/exe").unwrap();
        let bytes = fs::read(&own).unwrap();
        let read = |path: &Path| fs::read(path).map_err(Fault::Read);
        let needed = find(&own, &bytes, &[], read).unwrap();
        assert!(needed.iter().any(|object| object.name == "libc.so.6"));
        let linked = crate::library::linked_files();
        assert!(find(&own, &bytes, &linked, read).unwrap().is_empty());
    }

    #[test]
    fn origins_are_replaced() {
        assert_eq!(replaced(b"$ORIGIN/../lib", b"/opt/x"), b"/opt/x/../lib");
        assert_eq!(replaced(b"a${ORIGIN}b$O", b"/o"), b"a/ob$O");
    }
}
