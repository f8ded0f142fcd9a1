//! Checks of plain values that every part of a request shares: texts, paths, ids, numbers, maps.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use crate::{error::Error, field::Field};

/// Longest path, bytes without the NUL: the kernel's `PATH_MAX`.
const PATH_MAX: usize = 4095;
/// Longest component of a path, bytes: the kernel's `NAME_MAX`.
const NAME_MAX: usize = 255;
/// Longest name of a pod, namespace, container or handler, bytes. Kubernetes stops at 253; names are parts of keys, not
/// of files, so this only keeps the absurd out.
const IDENTITY_MAX: usize = 1024;
/// Longest id or id prefix, bytes. Ours have 64; a wrong one should be told "not found", an absurd one "not an id".
const ID_MAX: usize = 256;
/// All labels, or all annotations, of one object together, bytes. Kubernetes stops at 256 KiB; every list carries them,
/// and no client reads an answer of more than 16 MiB.
const ECHOED_MAX: usize = 1 << 20;

/// Longest wait that means something, seconds: ten years. Some pods have a grace of `i64::MAX`, meaning "as long as it
/// takes"; clocks cannot count that far.
const WAIT_MAX: u64 = 10 * 365 * 24 * 3600;

/// A text that becomes part of a file, an argument or a kernel string.
pub(crate) fn text(field: &Field<'_>, value: String, longest: usize) -> Result<String, Error> {
    if value.len() > longest {
        let want = format!("at most {longest} bytes, not {}", value.len());
        return Err(Error::invalid(field, value, want));
    }
    if value.contains('\0') {
        return Err(Error::invalid(field, value, "no NUL byte"));
    }
    Ok(value)
}

/// A name of something in Kubernetes: not empty, one line.
pub(crate) fn identity(field: &Field<'_>, value: String) -> Result<String, Error> {
    let value = text(field, value, IDENTITY_MAX)?;
    if value.is_empty() {
        return Err(Error::invalid(field, value, "a name that is not empty"));
    }
    if value.chars().any(char::is_control) {
        return Err(Error::invalid(field, value, "a name without control characters"));
    }
    Ok(value)
}

/// The id of a pod or container, or a prefix of one. Whether it exists is asked elsewhere.
pub(crate) fn id(field: &Field<'_>, value: String) -> Result<String, Error> {
    if value.is_empty() {
        return Err(Error::invalid(field, value, "an id, or the first digits of one"));
    }
    optional_id(field, value)
}

/// As [`id`]; empty means that none is given.
pub(crate) fn optional_id(field: &Field<'_>, value: String) -> Result<String, Error> {
    if value.len() > ID_MAX || value.chars().any(|c| c.is_control() || c == '/') {
        return Err(Error::invalid(field, value, "an id, or the first digits of one"));
    }
    Ok(value)
}

/// A path of the host: absolute, nothing the kernel would cut short.
pub(crate) fn absolute(field: &Field<'_>, value: String) -> Result<PathBuf, Error> {
    let value = path(field, value)?;
    if !value.is_absolute() {
        return Err(Error::invalid(field, value, "an absolute path"));
    }
    Ok(value)
}

/// A path: not empty, nothing the kernel would cut short.
pub(crate) fn path(field: &Field<'_>, value: String) -> Result<PathBuf, Error> {
    let value = text(field, value, PATH_MAX)?;
    if value.is_empty() {
        return Err(Error::invalid(field, value, "a path"));
    }
    if value.split('/').any(|component| component.len() > NAME_MAX) {
        return Err(Error::invalid(field, value, "path components of at most 255 bytes"));
    }
    Ok(PathBuf::from(value))
}

/// No `..`: the path must stay below where it starts, whatever links are on the way.
pub(crate) fn without_parents(field: &Field<'_>, value: PathBuf) -> Result<PathBuf, Error> {
    if value.components().any(|c| c == Component::ParentDir) {
        return Err(Error::invalid(field, value, "a path without `..`"));
    }
    Ok(value)
}

/// Whether a path names the root itself, once `.` and `..` are taken out.
pub(crate) fn is_root(value: &Path) -> bool {
    let mut depth = 0_usize;
    for component in value.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth == 0
}

/// A list of at most `most` elements.
pub(crate) fn at_most<T>(field: &Field<'_>, list: Vec<T>, most: usize) -> Result<Vec<T>, Error> {
    if list.len() > most {
        return Err(Error::invalid(field, format_args!("{} elements", list.len()), format!("at most {most}")));
    }
    Ok(list)
}

/// Labels or annotations: any text, echoed byte for byte, within what a list can carry.
pub(crate) fn echoed(field: &Field<'_>, map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    together(field, map.iter().map(|(key, value)| key.len() + value.len()).sum(), ECHOED_MAX)?;
    Ok(map)
}

/// The bytes of all texts of a field, which are bounded one by one elsewhere: a container is described to its monitor
/// in one message, which has a length.
pub(crate) fn together(field: &Field<'_>, bytes: usize, most: usize) -> Result<(), Error> {
    if bytes > most {
        return Err(Error::invalid(field, format_args!("{bytes} bytes"), format!("at most {most} bytes together")));
    }
    Ok(())
}

/// A number within bounds.
pub(crate) fn within(field: &Field<'_>, value: i64, least: i64, most: i64, unit: &str) -> Result<i64, Error> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Error::invalid(field, value, format!("{least} to {most}{unit}")))
    }
}

/// A message that has to be there.
pub(crate) fn present<T>(field: &Field<'_>, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::invalid(field, None::<()>, "it set"))
}

/// An enum value of the contract, by its number.
pub(crate) fn known<T: TryFrom<i32>>(field: &Field<'_>, number: i32, names: &'static str) -> Result<T, Error> {
    T::try_from(number).map_err(|_| Error::invalid(field, number, names))
}

/// A number of seconds to wait; 0 is none given.
pub(crate) fn seconds(field: &Field<'_>, value: i64) -> Result<Option<Duration>, Error> {
    let seconds = u64::try_from(value).map_err(|_| Error::invalid(field, value, "a number of seconds, or 0"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.min(WAIT_MAX))))
}
