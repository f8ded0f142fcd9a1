//! StreamPodSandboxes: the same list as ListPodSandbox, in pieces.

use api::cri::v1::{StreamPodSandboxesRequest, StreamPodSandboxesResponse};
use pods::Pods;
use prost::Message;

use crate::{
    answer::chunk::{Pieces, pieces},
    error::Error,
    list_pod_sandbox,
};

/// The list as of now.
pub(crate) fn answer(
    request: StreamPodSandboxesRequest,
    pods: &Pods,
) -> Result<Pieces<StreamPodSandboxesResponse>, Error> {
    let items = list_pod_sandbox::items(request.filter, pods)?;
    Ok(pieces(items, Message::encoded_len, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
}
