//! ContainerStatus: one container. From memory; more than half of all that a kubelet asks.

use std::collections::BTreeMap;

use api::cri::v1::{ContainerStatusRequest, ContainerStatusResponse};
use pods::Pods;

use crate::{
    answer::{container, info},
    error::Error,
    field::Field,
    request::text,
};

/// The status of the container.
pub(crate) fn answer(request: ContainerStatusRequest, pods: &Pods) -> Result<ContainerStatusResponse, Error> {
    let id = text::id(&Field::root("container_id"), request.container_id)?;
    let view = pods.find_container(&id)?;
    Ok(ContainerStatusResponse {
        status: Some(container::status(&view)),
        info: if request.verbose { info::container(&view) } else { BTreeMap::new() },
    })
}
