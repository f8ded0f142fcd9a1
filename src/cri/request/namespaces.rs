//! Whose processes, network, IPC and users a pod and its containers have.

use api::cri::v1::{self, NamespaceMode};
use model::{ContainerPid, IpcMode, NetworkMode, PidMode, PodNamespaces};

use super::text;
use crate::{error::Error, field::Field};

/// Names of the enum, for messages.
const MODES: &str = "POD (0), CONTAINER (1), NODE (2) or TARGET (3)";

/// Namespaces of a pod. Absent options are all zeros, as protobuf has it: everything is the pod's own and shared.
pub(crate) fn of_pod(field: &Field<'_>, options: Option<v1::NamespaceOption>) -> Result<PodNamespaces, Error> {
    let options = options.unwrap_or_default();
    let network = match own_or_host(&field.at("network"), options.network)? {
        Own::Pod => NetworkMode::Pod,
        Own::Host => NetworkMode::Host,
    };
    let ipc = match own_or_host(&field.at("ipc"), options.ipc)? {
        Own::Pod => IpcMode::Pod,
        Own::Host => IpcMode::Host,
    };
    let pid = match text::known(&field.at("pid"), options.pid, MODES)? {
        NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Container => PidMode::Container,
        NamespaceMode::Node => PidMode::Host,
        NamespaceMode::Target => {
            return Err(Error::invalid(&field.at("pid"), "TARGET", "POD, CONTAINER or NODE: a pod has no target"));
        }
    };
    if !options.target_id.is_empty() {
        return Err(Error::invalid(&field.at("target_id"), options.target_id, "it empty: a pod has no target"));
    }
    users(&field.at("userns_options"), options.userns_options)?;
    Ok(PodNamespaces { network, pid, ipc, user: None })
}

/// Process visibility of a container. Its network, IPC and users are always its pod's, whatever the request says here.
pub(crate) fn of_container(field: &Field<'_>, options: Option<v1::NamespaceOption>) -> Result<ContainerPid, Error> {
    let options = options.unwrap_or_default();
    for (name, mode) in [("network", options.network), ("ipc", options.ipc)] {
        text::known::<NamespaceMode>(&field.at(name), mode, MODES)?;
    }
    users(&field.at("userns_options"), options.userns_options)?;
    let target = text::optional_id(&field.at("target_id"), options.target_id)?;
    let mode = text::known(&field.at("pid"), options.pid, MODES)?;
    match mode {
        NamespaceMode::Target if target.is_empty() => {
            Err(Error::invalid(&field.at("target_id"), target, "the id of a container of the pod, with pid TARGET"))
        }
        NamespaceMode::Target => Ok(ContainerPid::Target(target)),
        _ if !target.is_empty() => Err(Error::invalid(&field.at("target_id"), target, "it empty unless pid is TARGET")),
        NamespaceMode::Pod => Ok(ContainerPid::Pod),
        NamespaceMode::Container => Ok(ContainerPid::Container),
        NamespaceMode::Node => Ok(ContainerPid::Host),
    }
}

/// The options as a status echoes them: the kubelet compares the network mode with the pod's specification.
pub(crate) fn echoed(namespaces: &PodNamespaces) -> v1::NamespaceOption {
    let network = match namespaces.network {
        NetworkMode::Pod => NamespaceMode::Pod,
        NetworkMode::Host => NamespaceMode::Node,
    };
    let pid = match namespaces.pid {
        PidMode::Pod => NamespaceMode::Pod,
        PidMode::Container => NamespaceMode::Container,
        PidMode::Host => NamespaceMode::Node,
    };
    let ipc = match namespaces.ipc {
        IpcMode::Pod => NamespaceMode::Pod,
        IpcMode::Host => NamespaceMode::Node,
    };
    v1::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id: String::new(),
        userns_options: None,
    }
}

enum Own {
    Pod,
    Host,
}

fn own_or_host(field: &Field<'_>, mode: i32) -> Result<Own, Error> {
    match text::known(field, mode, MODES)? {
        NamespaceMode::Pod => Ok(Own::Pod),
        NamespaceMode::Node => Ok(Own::Host),
        other => Err(Error::invalid(field, other.as_str_name(), "POD or NODE")),
    }
}

/// The host's users are all there is for now; what can never be is told apart from what is not built.
fn users(field: &Field<'_>, options: Option<v1::UserNamespace>) -> Result<(), Error> {
    let Some(options) = options else { return Ok(()) };
    match text::known(&field.at("mode"), options.mode, MODES)? {
        NamespaceMode::Node => match (options.uids.len(), options.gids.len()) {
            (0, 0) => Ok(()),
            (0, _) => Err(Error::invalid(&field.at("gids"), options.gids, "none with mode NODE")),
            _ => Err(Error::invalid(&field.at("uids"), options.uids, "none with mode NODE")),
        },
        NamespaceMode::Pod => {
            let uids = mapping(&field.at("uids"), &options.uids)?;
            let gids = mapping(&field.at("gids"), &options.gids)?;
            if uids.length != gids.length {
                return Err(Error::invalid(
                    &field.at("gids"),
                    gids.length,
                    format!("as many as uids: {}", uids.length),
                ));
            }
            Err(Error::refused(&field.at("mode"), "POD", "user namespaces are not built yet; NODE is the host's"))
        }
        other => Err(Error::invalid(&field.at("mode"), other.as_str_name(), "POD or NODE")),
    }
}

fn mapping<'a>(field: &Field<'_>, mappings: &'a [v1::IdMapping]) -> Result<&'a v1::IdMapping, Error> {
    let [only] = mappings else {
        return Err(Error::invalid(field, mappings, "exactly one mapping with mode POD"));
    };
    if only.length == 0 || only.container_id != 0 || only.host_id.checked_add(only.length).is_none() {
        let want = "a range that begins at container_id 0, is not empty and ends before 2^32";
        return Err(Error::invalid(&field.index(0), only, want));
    }
    Ok(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: Field<'static> = Field::root("namespace_options");

    fn option(pid: NamespaceMode, target: &str) -> Option<v1::NamespaceOption> {
        Some(v1::NamespaceOption { pid: pid.into(), target_id: target.into(), ..Default::default() })
    }

    #[test]
    fn a_pod_echoes_what_it_was_asked_for() {
        for (network, pid, ipc) in [(0, 0, 0), (2, 1, 0), (2, 2, 2), (0, 1, 2)] {
            let asked = v1::NamespaceOption { network, pid, ipc, ..Default::default() };
            assert_eq!(echoed(&of_pod(&FIELD, Some(asked.clone())).unwrap()), asked);
        }
    }

    #[test]
    fn a_target_is_only_for_containers_and_needs_an_id() {
        assert!(of_pod(&FIELD, option(NamespaceMode::Target, "a")).is_err());
        assert!(of_container(&FIELD, option(NamespaceMode::Target, "")).is_err());
        assert!(of_container(&FIELD, option(NamespaceMode::Pod, "abc")).is_err());
        let target = of_container(&FIELD, option(NamespaceMode::Target, "abc")).unwrap();
        assert_eq!(target, ContainerPid::Target("abc".into()));
    }

    #[test]
    fn user_namespaces_are_told_apart_impossible_from_not_built() {
        let one = |container_id| v1::IdMapping { host_id: 1000, container_id, length: 100_000 };
        let asked = |mode: NamespaceMode, uids: Vec<_>| {
            let users = v1::UserNamespace { mode: mode.into(), gids: uids.clone(), uids };
            let options = v1::NamespaceOption { userns_options: Some(users), ..Default::default() };
            of_pod(&FIELD, Some(options)).map_err(|error| matches!(error, Error::Refused { .. }))
        };
        assert!(asked(NamespaceMode::Node, vec![]).is_ok());
        assert_eq!(asked(NamespaceMode::Pod, vec![one(0)]), Err(true), "not built");
        for impossible in [
            (NamespaceMode::Pod, vec![]),
            (NamespaceMode::Pod, vec![one(0), one(0)]),
            (NamespaceMode::Pod, vec![one(1)]),
            (NamespaceMode::Container, vec![]),
            (NamespaceMode::Target, vec![]),
        ] {
            assert_eq!(asked(impossible.0, impossible.1), Err(false), "can never be");
        }
    }
}
