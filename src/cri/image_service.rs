//! The ImageService: each call goes through the door to the file of its name.

use api::cri::v1::{
    ImageFsInfoRequest, ImageFsInfoResponse, ImageStatusRequest, ImageStatusResponse, ListImagesRequest,
    ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
    StreamImagesRequest, StreamImagesResponse, image_service_server::ImageService,
};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    Cri, answer::chunk::Pieces, door, image_fs_info, image_status, list_images, pull_image, remove_image, stream_images,
};

#[async_trait]
impl ImageService for Cri {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        door::pass("ListImages", request, async |request| list_images::answer(request, &self.images, &self.host)).await
    }

    type StreamImagesStream = Pieces<StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        door::pass("StreamImages", request, async |request| stream_images::answer(request, &self.images, &self.host))
            .await
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        door::pass("ImageStatus", request, async |request| image_status::answer(request, &self.images, &self.host))
            .await
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<PullImageResponse>, Status> {
        door::pass("PullImage", request, |request| pull_image::answer(request, &self.images, &self.host)).await
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        door::pass("RemoveImage", request, |request| remove_image::answer(request, &self.images, &self.host)).await
    }

    async fn image_fs_info(
        &self,
        request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        door::pass("ImageFsInfo", request, async |request| {
            image_fs_info::answer(request, &self.images, &self.config.root)
        })
        .await
    }
}
