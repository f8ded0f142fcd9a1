//! The calls of the contract, each sent to its file.

use std::{collections::HashSet, fmt, sync::Arc};

use api::coracle::v1::{
    self,
    images_server::{Images as Contract, ImagesServer},
    system_server::{System as SystemContract, SystemServer},
};
use images::Images;
use model::PodId;
use network::{Living, Network};
use tonic::{Request, Response, Status, Streaming, async_trait, service::Routes};

use crate::{
    check_node, check_store, disk_usage,
    door::{self, News},
    explain_pull, list_images, load_images, pull_image, remove_image, save_images, tag_image,
};

/// Tells which pods are in a network now.
pub type Pods = dyn Fn() -> Vec<Living> + Send + Sync;

/// The services. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Operator {
    images: Arc<Images>,
    network: Network,
    pods: Arc<Pods>,
}

impl Operator {
    /// The face of these rooms.
    pub fn new(images: Arc<Images>, network: Network, pods: Arc<Pods>) -> Self {
        Self { images, network, pods }
    }

    /// What a server adds to its own services.
    pub fn routes(self) -> Routes {
        let system = SystemServer::new(self.clone());
        Routes::new(ImagesServer::new(self).max_decoding_message_size(load_images::MESSAGE_MAX)).add_service(system)
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("images", &self.images).field("network", &self.network).finish_non_exhaustive()
    }
}

#[async_trait]
impl Contract for Operator {
    type ListImagesStream = News<v1::ListImagesResponse>;
    type PullImageStream = News<v1::PullImageResponse>;
    type LoadImagesStream = News<v1::LoadImagesResponse>;
    type SaveImagesStream = News<v1::SaveImagesResponse>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<Self::ListImagesStream>, Status> {
        let (request, images) = (request.into_inner(), self.images.clone());
        let name = request.name.clone();
        Ok(door::begin("ListImages", &name, |teller| list_images::answer(request, images, teller)))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let (request, images) = (request.into_inner(), self.images.clone());
        let name = request.reference.clone();
        Ok(door::begin("PullImage", &name, |teller| pull_image::answer(request, images, teller)))
    }

    async fn explain_pull(
        &self,
        request: Request<v1::ExplainPullRequest>,
    ) -> Result<Response<v1::ExplainPullResponse>, Status> {
        let request = request.into_inner();
        let name = request.reference.clone();
        door::pass("ExplainPull", &name, explain_pull::answer(request, &self.images)).await
    }

    async fn tag_image(&self, request: Request<v1::TagImageRequest>) -> Result<Response<v1::TagImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.source.clone();
        door::pass("TagImage", &name, tag_image::answer(request, &self.images)).await
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        door::pass("RemoveImage", &name, remove_image::answer(request, &self.images)).await
    }

    async fn load_images(
        &self,
        request: Request<Streaming<v1::LoadImagesRequest>>,
    ) -> Result<Response<Self::LoadImagesStream>, Status> {
        let (archive, images) = (request.into_inner(), self.images.clone());
        Ok(door::begin("LoadImages", "", |teller| load_images::answer(archive, images, teller)))
    }

    async fn save_images(
        &self,
        request: Request<v1::SaveImagesRequest>,
    ) -> Result<Response<Self::SaveImagesStream>, Status> {
        let (request, images) = (request.into_inner(), self.images.clone());
        let name = request.names.join(" ");
        Ok(door::begin("SaveImages", &name, |teller| save_images::answer(request, images, teller)))
    }
}

#[async_trait]
impl SystemContract for Operator {
    type DiskUsageStream = News<v1::DiskUsageResponse>;
    type CheckStoreStream = News<v1::CheckStoreResponse>;

    async fn check_node(&self, _: Request<v1::CheckNodeRequest>) -> Result<Response<v1::CheckNodeResponse>, Status> {
        let answer = async {
            let mut unlike = self.network.check((self.pods)()).await;
            // What has been stopped meanwhile is right to be gone.
            let living: HashSet<PodId> = (self.pods)().into_iter().map(|living| living.pod).collect();
            unlike.retain(|unlike| living.contains(&unlike.pod));
            Ok(check_node::answer(self.network.report(), unlike))
        };
        door::pass("CheckNode", "", answer).await
    }

    async fn disk_usage(&self, _: Request<v1::DiskUsageRequest>) -> Result<Response<Self::DiskUsageStream>, Status> {
        let images = self.images.clone();
        Ok(door::begin("DiskUsage", "", |teller| disk_usage::answer(images, teller)))
    }

    async fn check_store(
        &self,
        request: Request<v1::CheckStoreRequest>,
    ) -> Result<Response<Self::CheckStoreStream>, Status> {
        let (request, images) = (request.into_inner(), self.images.clone());
        Ok(door::begin("CheckStore", "", |teller| check_store::answer(request, images, teller)))
    }
}
