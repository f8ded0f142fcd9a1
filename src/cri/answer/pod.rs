//! Pods as the kubelet wants them.

use api::cri::v1::{self, PodSandboxState};
use model::NetworkMode;
use pods::PodView;

use super::time::nanoseconds;
use crate::request::namespaces;

/// The state of a pod.
pub(crate) fn state(view: &PodView) -> PodSandboxState {
    if view.ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

/// A pod in a list.
pub(crate) fn item(view: &PodView) -> v1::PodSandbox {
    v1::PodSandbox {
        id: view.id.to_string(),
        metadata: Some(metadata(view)),
        state: state(view).into(),
        created_at: nanoseconds(view.created_at),
        labels: view.plan.labels.clone(),
        annotations: view.plan.annotations.clone(),
        runtime_handler: view.plan.runtime_handler.clone(),
    }
}

/// The status of a pod.
pub(crate) fn status(view: &PodView) -> v1::PodSandboxStatus {
    v1::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(view)),
        state: state(view).into(),
        created_at: nanoseconds(view.created_at),
        network: Some(network(view)),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(namespaces::echoed(&view.plan.namespaces)) }),
        }),
        labels: view.plan.labels.clone(),
        annotations: view.plan.annotations.clone(),
        runtime_handler: view.plan.runtime_handler.clone(),
    }
}

/// Addresses while they are the pod's: with the host's network they are the kubelet's to know, and after a stop another
/// pod may have them.
fn network(view: &PodView) -> v1::PodSandboxNetworkStatus {
    if !view.ready || view.plan.namespaces.network == NetworkMode::Host {
        return v1::PodSandboxNetworkStatus::default();
    }
    let mut addresses = view.ips().iter().map(ToString::to_string);
    v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    }
}

fn metadata(view: &PodView) -> v1::PodSandboxMetadata {
    let metadata = &view.plan.metadata;
    v1::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}
