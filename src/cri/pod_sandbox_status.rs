//! PodSandboxStatus: one pod, with its containers. From memory.

use std::collections::BTreeMap;

use api::cri::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use pods::Pods;

use crate::{
    answer::{container, info, pod, time},
    error::Error,
    field::Field,
    request::text,
};

/// The status of the pod.
pub(crate) fn answer(request: PodSandboxStatusRequest, pods: &Pods) -> Result<PodSandboxStatusResponse, Error> {
    let id = text::id(&Field::root("pod_sandbox_id"), request.pod_sandbox_id)?;
    let view = pods.find(&id)?;
    Ok(PodSandboxStatusResponse {
        status: Some(pod::status(&view)),
        info: if request.verbose { info::pod(&view) } else { BTreeMap::new() },
        containers_statuses: view.containers.iter().map(|view| container::status(view)).collect(),
        timestamp: time::later(),
    })
}
