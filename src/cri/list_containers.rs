//! ListContainers: the containers that pass a filter. From memory; asked every second.

use api::cri::v1::{ContainerFilter, ListContainersRequest, ListContainersResponse};
use bytes::Bytes;
use pods::Pods;
use prost::Message;

use crate::{answer::container, error::Error, request::filter};

/// The list.
pub(crate) fn answer(request: ListContainersRequest, pods: &Pods) -> Result<ListContainersResponse, Error> {
    Ok(ListContainersResponse { containers: items(request.filter, pods)? })
}

/// Containers that pass, encoded; an id that does not exist gives none.
pub(crate) fn items(filter: Option<ContainerFilter>, pods: &Pods) -> Result<Vec<Bytes>, Error> {
    let filter = filter::Containers::read(filter)?;
    let views = pods.containers();
    let passing = views.iter().filter(|view| {
        filter.passes(view.id.as_str(), view.pod.as_str(), container::state(&view.phase), &view.plan.labels)
    });
    Ok(passing.map(|view| view.listed.get_or_make(|| container::item(view).encode_to_vec())).collect())
}
