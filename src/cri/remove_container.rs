//! RemoveContainer: nothing is left of a container but its log, which is the kubelet's. What is gone is success.

use api::cri::v1::{RemoveContainerRequest, RemoveContainerResponse};
use pods::Pods;

use crate::{error::Error, field::Field, request::text};

/// Removes the container, killing it first if it runs.
pub(crate) async fn answer(request: RemoveContainerRequest, pods: &Pods) -> Result<RemoveContainerResponse, Error> {
    let id = text::id(&Field::root("container_id"), request.container_id)?;
    pods.remove_container(&id).await?;
    Ok(RemoveContainerResponse {})
}
