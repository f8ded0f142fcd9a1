//! Kernel parameters of a pod, as the monitor gets them: paths below `/proc/sys`. Which a pod may set is `model`'s to
//! say.

use std::collections::BTreeMap;

use model::{InvalidSysctl, NetworkMode, PodPlan, sysctl_path};

use crate::{Error, Result};

/// What a pod with a network of its own gets unless it asks otherwise: any user may bind any port, and may ping. Every
/// runtime of the field does so, since nothing outside the pod is touched by it.
const DEFAULTS: &[(&str, &str)] =
    &[("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")];

/// The parameters to set, as paths below `/proc/sys`.
pub(crate) fn of_pod(plan: &PodPlan) -> Result<BTreeMap<String, String>> {
    let mut paths = BTreeMap::new();
    if plan.namespaces.network == NetworkMode::Pod {
        paths.extend(DEFAULTS.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())));
    }
    for (name, value) in &plan.sysctls {
        let refused =
            |no: InvalidSysctl| Error::Invalid { field: "config.linux.sysctls", value: name.clone(), want: no.want() };
        let path = sysctl_path(name, &plan.namespaces).map_err(refused)?;
        paths.insert(path, value.clone());
    }
    Ok(paths)
}
