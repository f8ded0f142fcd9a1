//! The calls of the contract that are not built. A client that asks hears the call's name, never silence.

use tonic::{Request, Response, Status};

use crate::{about::About, door, error::Error};

/// Each call, and what stands in its place.
pub(crate) const UNBUILT: [(&str, &str); 18] = [
    ("UpdatePodSandboxResources", "it would only inform"),
    ("UpdateContainerResources", "limits are set when a container is created"),
    ("Exec", "use ExecSync, crictl exec -s"),
    ("Attach", "read the container's log"),
    ("PortForward", "reach the pod's address from the node"),
    ("ContainerStats", "read the container's cgroup"),
    ("ListContainerStats", "read the containers' cgroups"),
    ("StreamContainerStats", "read the containers' cgroups"),
    ("PodSandboxStats", "read the pod's cgroup"),
    ("ListPodSandboxStats", "read the pods' cgroups"),
    ("StreamPodSandboxStats", "read the pods' cgroups"),
    ("ListMetricDescriptors", "there are no metrics"),
    ("ListPodSandboxMetrics", "there are no metrics"),
    ("StreamPodSandboxMetrics", "there are no metrics"),
    ("GetContainerEvents", "list pods and containers, as every kubelet can"),
    ("CheckpointContainer", "states are not saved"),
    ("CheckpointPod", "states are not saved"),
    ("RestorePod", "states are not saved"),
];

/// The answer of a call that is not built.
pub(crate) async fn refuse<Q: About, A>(call: &'static str, request: Request<Q>) -> Result<Response<A>, Status> {
    let why = UNBUILT.iter().find(|(name, _)| *name == call).map_or("", |(_, why)| why);
    door::pass(call, request, async |_| Err(Error::Call { call, why })).await
}
