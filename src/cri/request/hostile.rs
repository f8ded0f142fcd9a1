//! Every field of every request, empty, absent, absurd and hostile: never a panic, never a refusal without a name.
//!
//! The fields are found by walking the descriptors, so that one added tomorrow is tried too. What each bad value must
//! be told is in the tests beside the parts.

use api::cri::v1;
use model::Class;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use super::{Host, container, filter, image, kubelet, pod};
use crate::error::Error;

/// Longest refusal, bytes: it repeats the value only as far as one needs to recognise it.
const REFUSAL_MAX: usize = 1000;

fn descriptor(name: &str) -> MessageDescriptor {
    DescriptorPool::decode(api::DESCRIPTORS).unwrap().get_message_by_name(&format!("runtime.v1.{name}")).unwrap()
}

/// Paths to all fields of a message and of the messages in it.
fn paths(message: &MessageDescriptor) -> Vec<Vec<FieldDescriptor>> {
    let mut found = Vec::new();
    for field in message.fields() {
        found.push(vec![field.clone()]);
        if let (Kind::Message(inner), false) = (field.kind(), field.is_map()) {
            found.extend(paths(&inner).into_iter().map(|path| [vec![field.clone()], path].concat()));
        }
    }
    found
}

/// The message in which the last field of the path stands; made on the way, and the first of each list.
fn owner<'a>(message: &'a mut DynamicMessage, path: &[FieldDescriptor]) -> &'a mut DynamicMessage {
    let Some((field, rest)) = path.split_first().filter(|(_, rest)| !rest.is_empty()) else { return message };
    let Kind::Message(kind) = field.kind() else { panic!("only messages have fields") };
    let inner = match message.get_field_mut(field) {
        Value::List(elements) => {
            if elements.is_empty() {
                elements.push(Value::Message(DynamicMessage::new(kind)));
            }
            elements.first_mut().unwrap()
        }
        value => value,
    };
    let Value::Message(inner) = inner else { panic!("{} holds no message", field.full_name()) };
    owner(inner, rest)
}

/// Values that no kubelet sends.
fn odd(field: &FieldDescriptor) -> Vec<Value> {
    if field.is_map() {
        let entry = |key: &str, value: &str| {
            Value::Map([(MapKey::String(key.to_owned()), Value::String(value.to_owned()))].into())
        };
        let many = (0..5000).map(|n| (MapKey::String(format!("k{n}")), Value::String(String::new())));
        let long = "x".repeat(2 << 20);
        return vec![
            entry("", ""),
            entry("\0", "\0"),
            entry("../../x", "\n"),
            entry("a", &long),
            entry(&long, "a"),
            Value::Map(many.collect()),
        ];
    }
    let one = match field.kind() {
        Kind::String => {
            let long = "x".repeat(200_000);
            ["", "\0", "/", ".", "..", "../../../../etc/passwd", "/../..", "a\nb", "\u{202e}ü", "-1", "%s%n", &long]
                .map(|text| Value::String(text.to_owned()))
                .to_vec()
        }
        Kind::Bytes => [vec![], vec![0], vec![0xff; 200_000]].map(|bytes| Value::Bytes(bytes.into())).to_vec(),
        Kind::Bool => vec![Value::Bool(true), Value::Bool(false)],
        Kind::Int32 => [i32::MIN, -1, 0, i32::MAX].map(Value::I32).to_vec(),
        Kind::Int64 => [i64::MIN, -2, -1, 0, 1, i64::MAX].map(Value::I64).to_vec(),
        Kind::Uint32 => [0, u32::MAX].map(Value::U32).to_vec(),
        Kind::Uint64 => [0, u64::MAX].map(Value::U64).to_vec(),
        Kind::Enum(_) => [i32::MIN, -1, 0, 1, 2, 3, 999, i32::MAX].map(Value::EnumNumber).to_vec(),
        Kind::Message(message) => vec![Value::Message(DynamicMessage::new(message))],
        other => panic!("{}: say here what is odd for {other:?}", field.full_name()),
    };
    if !field.is_list() {
        return one;
    }
    let many = Value::List(vec![one[0].clone(); 70_000]);
    one.into_iter().map(|value| Value::List(vec![value])).chain([many, Value::List(Vec::new())]).collect()
}

/// Tries every odd value in every field of `base`.
fn try_all<M: Message + Default>(name: &str, base: &M, accept: impl Fn(M) -> Result<(), Error>) {
    let kind = descriptor(name);
    let whole = DynamicMessage::decode(kind.clone(), base.encode_to_vec().as_slice()).unwrap();
    let mut refusals = 0;
    let mut attempt = |message: &DynamicMessage, path: &[FieldDescriptor], what: &str| {
        let names: Vec<_> = path.iter().map(|field| field.name().to_owned()).collect();
        let request = M::decode(message.encode_to_vec().as_slice()).unwrap();
        if let Err(error) = accept(request) {
            refusals += 1;
            let text = error.to_string();
            let class = error.class();
            assert!(matches!(class, Class::Invalid | Class::Unsupported), "{names:?} {what}: {class:?} {text}");
            assert!(text.len() < REFUSAL_MAX, "{names:?} {what}: {} bytes of message", text.len());
            assert!(text.contains(&names[0]), "{names:?} {what}: the message names something else: {text}");
        }
    };
    for path in paths(&kind) {
        let field = path.last().unwrap();
        let mut absent = whole.clone();
        owner(&mut absent, &path).clear_field(field);
        attempt(&absent, &path, "absent");
        for value in odd(field) {
            let mut message = whole.clone();
            owner(&mut message, &path).set_field(field, value);
            attempt(&message, &path, "odd");
        }
    }
    assert!(refusals > 0, "{name}: nothing was ever refused");
}

#[test]
fn no_pod_configuration_makes_us_panic_or_speak_vaguely() {
    let base = v1::RunPodSandboxRequest { config: Some(kubelet::pod()), ..Default::default() };
    try_all("RunPodSandboxRequest", &base, |request: v1::RunPodSandboxRequest| {
        pod::plan(request.config, request.runtime_handler, &Host::plain()).map(drop)
    });
}

#[test]
fn no_container_configuration_makes_us_panic_or_speak_vaguely() {
    let base = v1::CreateContainerRequest { config: Some(kubelet::container()), ..Default::default() };
    let host = Host { handlers: vec![], selinux: true, apparmor: true };
    for host in [Host::plain(), host] {
        try_all("CreateContainerRequest", &base, |request: v1::CreateContainerRequest| {
            container::plan(request.config, &host).map(drop)
        });
    }
}

#[test]
fn no_filter_and_no_image_name_makes_us_panic_or_speak_vaguely() {
    try_all("ListContainersRequest", &v1::ListContainersRequest::default(), |request: v1::ListContainersRequest| {
        filter::Containers::read(request.filter).map(drop)
    });
    try_all("ListPodSandboxRequest", &v1::ListPodSandboxRequest::default(), |request: v1::ListPodSandboxRequest| {
        filter::Pods::read(request.filter).map(drop)
    });
    let host = Host::plain();
    try_all("ListImagesRequest", &v1::ListImagesRequest::default(), |request: v1::ListImagesRequest| {
        image::picked(request.filter, &host).map(drop)
    });
    try_all("RemoveImageRequest", &v1::RemoveImageRequest::default(), |request: v1::RemoveImageRequest| {
        image::named(request.image, &host).map(drop)
    });
}
