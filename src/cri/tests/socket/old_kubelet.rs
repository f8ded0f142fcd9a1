//! A kubelet of years ago: its client was generated from an old contract (k8s-cri 0.11) that has no list streams, no
//! user namespaces, no image volumes and no resize of pods. It must notice nothing.

use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageFsInfoRequest, ImageSpec, ImageStatusRequest,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListContainersRequest, ListPodSandboxRequest, NamespaceOption,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StatusRequest, StopPodSandboxRequest, VersionRequest,
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use testkit::TempNode;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

const POD: i32 = 0;
const CONTAINER: i32 = 1;

async fn connect(node: &TempNode) -> Channel {
    let socket = node.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

fn pod(node: &TempNode) -> PodSandboxConfig {
    let options = NamespaceOption { network: POD, pid: CONTAINER, ipc: POD, ..Default::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "old".into(),
            uid: "old-uid".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "old".into(),
        log_directory: node.dir().join("logs/old").display().to_string(),
        labels: [("app".to_owned(), "old".to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn an_older_kubelet_runs_and_removes_a_pod() {
    let node = TempNode::start();
    let channel = connect(&node).await;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let mut images = ImageServiceClient::new(channel);

    let version = runtime.version(VersionRequest { version: "0.1.0".into() }).await.unwrap().into_inner();
    assert_eq!((version.version.as_str(), version.runtime_name.as_str()), ("0.1.0", "coracle"));
    assert_eq!(images.image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner().image_filesystems.len(), 1);
    let status = runtime.status(StatusRequest { verbose: true }).await.unwrap().into_inner();
    assert!(status.status.unwrap().conditions.iter().all(|condition| condition.status));

    let config = pod(&node);
    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let id = runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let filter = Some(PodSandboxFilter { label_selector: config.labels.clone(), ..Default::default() });
    let listed = runtime.list_pod_sandbox(ListPodSandboxRequest { filter }).await.unwrap().into_inner().items;
    assert_eq!(listed.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&id]);
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.metadata, config.metadata);
    assert!(!status.network.unwrap().ip.is_empty(), "an old kubelet recreates a pod without an address");
    assert_eq!(
        status.linux.unwrap().namespaces.unwrap().options,
        config.linux.clone().unwrap().security_context.unwrap().namespace_options
    );

    let image = ImageSpec { image: "registry.example/absent:1".into(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(image.clone()), verbose: false };
    assert_eq!(images.image_status(request).await.unwrap().into_inner().image, None);
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "web".into(), attempt: 0 }),
        image: Some(image),
        ..Default::default()
    };
    let request =
        CreateContainerRequest { pod_sandbox_id: id.clone(), config: Some(container), sandbox_config: Some(config) };
    assert_eq!(runtime.create_container(request).await.unwrap_err().code(), Code::NotFound);
    let containers = runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
    assert!(containers.is_empty(), "a refused container left something");

    let request = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    runtime.stop_pod_sandbox(request).await.unwrap();
    let request = RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    runtime.remove_pod_sandbox(request).await.unwrap();
    let request = PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
    assert_eq!(runtime.pod_sandbox_status(request).await.unwrap_err().code(), Code::NotFound);
    node.finish().await;
}
