//! Kernel parameters of a pod: only those that its own namespaces keep apart from the host's, which `model` knows.

use std::collections::{BTreeMap, BTreeSet};

use model::{PodNamespaces, sysctl_path};

use super::{environment, text};
use crate::{error::Error, field::Field};

/// Longest name or value, bytes: a page is the most that procfs takes at once.
const LONGEST: usize = 4095;
/// All names and values together, bytes: more than all parameters that a kernel keeps per namespace.
const ALL_MAX: usize = 64 << 10;

/// Checked parameters, by the names that were given.
pub(crate) fn sysctls(
    field: &Field<'_>,
    map: BTreeMap<String, String>,
    namespaces: &PodNamespaces,
) -> Result<BTreeMap<String, String>, Error> {
    text::together(field, map.iter().map(|(name, value)| name.len() + value.len()).sum(), ALL_MAX)?;
    let mut checked = BTreeMap::new();
    let mut paths = BTreeSet::new();
    for (name, value) in environment::pairs(field, map, LONGEST)? {
        let entry = field.key(&name);
        let path = sysctl_path(&name, namespaces).map_err(|no| Error::invalid(&entry, name.as_str(), no.want()))?;
        if !paths.insert(path) {
            return Err(Error::invalid(&entry, value, "each parameter once, by dots or by slashes"));
        }
        checked.insert(name, value);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use model::{IpcMode, NetworkMode, PidMode};

    use super::*;

    fn read(given: &[&str]) -> Result<Vec<String>, Error> {
        let namespaces =
            PodNamespaces { network: NetworkMode::Pod, ipc: IpcMode::Host, pid: PidMode::Container, user: None };
        let map = given.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        sysctls(&Field::root("sysctls"), map, &namespaces).map(|read| read.into_keys().collect())
    }

    #[test]
    fn a_parameter_is_taken_once_and_only_if_the_pod_has_it_of_its_own() {
        assert_eq!(read(&["net.core.somaxconn"]).unwrap(), ["net.core.somaxconn"]);
        assert!(read(&["net.core.somaxconn", "net/core/somaxconn"]).is_err());
        let refused = read(&["kernel.sem"]).unwrap_err().to_string();
        assert!(refused.contains("sysctls[\"kernel.sem\"]") && refused.contains("the host's IPC"), "{refused}");
        let long: Vec<String> = (0..ALL_MAX / 10).map(|n| format!("net.{n:08}")).collect();
        assert!(read(&long.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }
}
