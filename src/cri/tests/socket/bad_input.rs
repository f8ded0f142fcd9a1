//! Every call of the contract, asked with nothing, with an id that does not exist, and with what is no message at all.
//!
//! Whatever comes, the answer has a code that says whose fault it is, and the daemon goes on as if nothing had been.

use api::cri::v1::{ListContainersRequest, ListPodSandboxRequest, VersionRequest};
use prost::bytes::{Buf, BufMut};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MethodDescriptor, Value};
use testkit::{Cri, TempNode};
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

/// Bytes as they are: what a client sends need not be a message.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        Ok(Some(bytes.to_vec()))
    }
}

fn calls() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let services: Vec<_> = pool.services().filter(|service| service.package_name() == "runtime.v1").collect();
    services.iter().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

async fn connect(node: &TempNode) -> Channel {
    let socket = node.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// Sends bytes to a call and waits for the end of its answer.
async fn send(channel: &Channel, call: &MethodDescriptor, bytes: Vec<u8>) -> Result<(), Status> {
    let path = format!("/{}/{}", call.parent_service().full_name(), call.name()).parse().unwrap();
    let mut grpc = Grpc::new(channel.clone()).max_encoding_message_size(64 << 20);
    grpc.ready().await.unwrap();
    // Every call is answered alike on the wire: a stream of messages, most of them of one.
    let mut answers = grpc.server_streaming(Request::new(bytes), path, Raw).await?.into_inner();
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

/// A request whose texts at the top, ids mostly, are all this.
fn with_texts(call: &MethodDescriptor, text: &str) -> Vec<u8> {
    let mut message = DynamicMessage::new(call.input());
    for field in call.input().fields().filter(|field| field.kind() == Kind::String && !field.is_list()) {
        message.set_field(&field, Value::String(text.to_owned()));
    }
    prost::Message::encode_to_vec(&message)
}

async fn is_well(client: &mut Cri) {
    client.runtime.version(VersionRequest::default()).await.unwrap();
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner();
    let containers = client.runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(pods.items.is_empty() && containers.containers.is_empty(), "a bad request left something");
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn nothing_that_a_client_sends_harms_the_daemon() {
    let node = TempNode::start();
    let mut client = node.client().await;
    let channel = connect(&node).await;
    for call in calls() {
        let mut asked = vec![("nothing", Vec::new())];
        for (what, text) in [("no such id", "0123456789abcdef"), ("a path", "../../../etc"), ("a NUL", "a\0b")] {
            asked.push((what, with_texts(&call, text)));
        }
        asked.push(("a long text", with_texts(&call, &"x".repeat(1 << 20))));
        for (what, bytes) in asked {
            let code = send(&channel, &call, bytes).await.map_or_else(|status| status.code(), |()| Code::Ok);
            let expected = [Code::Ok, Code::InvalidArgument, Code::NotFound, Code::Unimplemented];
            assert!(expected.contains(&code), "{} asked with {what}: {code:?}", call.name());
        }
        let garbage = send(&channel, &call, vec![0xff; 100]).await;
        assert!(garbage.is_err(), "{} took what is no message", call.name());
    }
    is_well(&mut client).await;
    let huge = send(&channel, &calls()[0], vec![0; 17 << 20]).await.unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange, "{huge}");
    is_well(&mut client).await;
    node.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_call_that_is_not_built_is_refused_by_its_name() {
    let node = TempNode::start();
    let channel = connect(&node).await;
    let mut refused = 0;
    for call in calls() {
        if let Err(status) = send(&channel, &call, with_texts(&call, "abc")).await
            && status.code() == Code::Unimplemented
        {
            assert!(status.message().starts_with(call.name()), "{}: {status}", call.name());
            refused += 1;
        }
    }
    assert_eq!(refused, cri::FATES.iter().filter(|row| !row.path.contains('.')).count() + CALLS_WITHOUT_FIELDS);
    node.finish().await;
}

/// Calls that are refused and have no row in the table, since their requests have no fields: events and metrics.
const CALLS_WITHOUT_FIELDS: usize = 4;
