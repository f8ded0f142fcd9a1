//! Images as the kubelet wants them.

use std::collections::BTreeMap;

use api::cri::v1;
use images::{Image, ImageUser};
use serde_json::json;

/// An image in a list or status: the same everywhere, since clients compare them.
pub(crate) fn image(image: &Image) -> v1::Image {
    let (uid, username) = match &image.user {
        ImageUser::Unset => (None, String::new()),
        ImageUser::Uid(uid) => (Some(v1::Int64Value { value: *uid }), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid,
        username,
        spec: Some(v1::ImageSpec { image: image.id.to_string(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// What tools read beside it: `crictl inspecti`.
pub(crate) fn info(image: &Image) -> BTreeMap<String, String> {
    let info = json!({ "chainID": image.chain_id.to_string(), "imageSpec": image.config });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
