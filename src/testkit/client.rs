//! Clients of both contracts, and requests that say only what a test is about.

use std::{collections::BTreeMap, path::Path};

use api::coracle::v1::{
    CheckStoreRequest, Finding, check_store_response::News, images_client::ImagesClient, system_client::SystemClient,
};
use api::cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec,
    ListPodSandboxRequest, PodSandboxConfig, PodSandboxMetadata, PullImageRequest, RemoveImageRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Largest message, bytes: what the kubelet allows itself.
const LARGEST: usize = 16 << 20;

/// Both services of a daemon.
#[derive(Debug, Clone)]
pub struct Cri {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects to the daemon that listens on this unix socket.
    pub async fn connect(socket: &Path) -> Result<Cri, tonic::transport::Error> {
        let channel = channel(socket).await?;
        Ok(Cri {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST),
            images: ImageServiceClient::new(channel).max_decoding_message_size(LARGEST),
        })
    }

    /// Runs a pod; its id.
    pub async fn run(&mut self, config: &PodSandboxConfig) -> Result<String, Status> {
        self.run_by("", config).await
    }

    /// Runs a pod by a runtime handler; its id.
    pub async fn run_by(&mut self, handler: &str, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Creates a container and starts it; its id.
    pub async fn start(
        &mut self,
        pod_id: &str,
        pod: &PodSandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, Status> {
        let id = self.create(pod_id, pod, config).await?;
        self.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await?;
        Ok(id)
    }

    /// Creates a container; its id.
    pub async fn create(
        &mut self,
        pod_id: &str,
        pod: &PodSandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_id.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    /// Runs a command in a container, for at most this many seconds (0: for ever).
    pub async fn exec(&mut self, container: &str, command: &[&str], seconds: i64) -> Result<ExecSyncResponse, Status> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: seconds,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// Stops and removes a pod.
    pub async fn remove(&mut self, pod_id: &str) -> Result<(), Status> {
        self.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_id.to_owned() }).await?;
        self.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod_id.to_owned() }).await?;
        Ok(())
    }

    /// Stops and removes every pod.
    pub async fn remove_all(&mut self) -> Result<(), Status> {
        let pods = self.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
        for pod in pods {
            self.remove(&pod.id).await?;
        }
        Ok(())
    }

    /// Pulls an image without credentials; its id.
    pub async fn pull(&mut self, image: &str) -> Result<String, Status> {
        let image = ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = PullImageRequest { image: Some(image), ..Default::default() };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }

    /// Removes an image, by any of its names.
    pub async fn remove_image(&mut self, image: &str) -> Result<(), Status> {
        let image = ImageSpec { image: image.to_owned(), ..Default::default() };
        self.images.remove_image(RemoveImageRequest { image: Some(image) }).await?;
        Ok(())
    }
}

/// What people ask of a daemon.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Images.
    pub images: ImagesClient<Channel>,
    /// The store.
    pub system: SystemClient<Channel>,
}

impl Operator {
    /// Connects to the daemon that listens on this unix socket.
    pub async fn connect(socket: &Path) -> Result<Operator, tonic::transport::Error> {
        let channel = channel(socket).await?;
        Ok(Operator { images: ImagesClient::new(channel.clone()), system: SystemClient::new(channel) })
    }

    /// Looks at everything in the store; what is not as it should be.
    pub async fn check_store(&mut self) -> Result<Vec<Finding>, Status> {
        let mut news = self.system.check_store(CheckStoreRequest { repair: false }).await?.into_inner();
        let mut findings = Vec::new();
        while let Some(told) = news.message().await? {
            match told.news {
                Some(News::Finding(finding)) => findings.push(finding),
                Some(News::Progress(_)) | None => {}
                Some(News::Done(_)) => return Ok(findings),
            }
        }
        Err(Status::data_loss("a check that did not come to its end"))
    }
}

/// A connection to this unix socket.
async fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    // The address is never used: the connector below goes to the socket.
    let endpoint = Endpoint::from_static("http://localhost");
    let connect = move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    endpoint.connect_with_connector(tower::service_fn(connect)).await
}

/// A pod of this name: namespace `default`, attempt 0, logs in `logs` below the directory.
pub fn pod(name: &str, dir: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: dir.join("logs").join(name).display().to_string(),
        labels: BTreeMap::from([("io.kubernetes.pod.name".to_owned(), name.to_owned())]),
        ..Default::default()
    }
}

/// A container of this name that runs these arguments after the image's entrypoint, its log in `<name>.log`.
pub fn container(name: &str, image: &str, arguments: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
        args: arguments.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}
