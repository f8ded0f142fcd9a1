//! The table is whole and true: a row for every field, none too many, and what it calls refused is refused by name.

use std::collections::BTreeSet;

use api::cri::v1;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

use super::*;
use crate::{
    error::Error,
    request::{Host, container, kubelet, pod},
    unbuilt::UNBUILT,
};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(api::DESCRIPTORS).unwrap()
}

/// Every call with the type of its request.
fn calls(pool: &DescriptorPool) -> Vec<(String, MessageDescriptor)> {
    let services = pool.services().filter(|service| service.package_name() == "runtime.v1");
    services.flat_map(|s| s.methods().map(|m| (m.name().to_owned(), m.input())).collect::<Vec<_>>()).collect()
}

/// Collects the paths of fields below `path` that no row speaks for, and the rows that spoke.
fn walk(path: &str, message: &MessageDescriptor, missing: &mut Vec<String>, met: &mut BTreeSet<&'static str>) {
    for field in message.fields() {
        let path = format!("{path}.{}", field.name());
        if let Some(row) = FATES.iter().find(|row| row.path == path) {
            met.insert(row.path);
        } else if let (Kind::Message(inner), false) = (field.kind(), field.is_map()) {
            walk(&path, &inner, missing, met);
        } else {
            missing.push(path);
        }
    }
}

#[test]
fn every_field_of_every_request_has_a_row_and_every_row_a_field() {
    let (mut missing, mut met) = (Vec::new(), BTreeSet::new());
    for (call, request) in calls(&pool()) {
        match FATES.iter().find(|row| row.path == call) {
            Some(row) => drop(met.insert(row.path)),
            None => walk(&call, &request, &mut missing, &mut met),
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "fields without a row");
    let idle: Vec<_> = FATES.iter().map(|row| row.path).filter(|path| !met.contains(path)).collect();
    assert_eq!(idle, Vec::<&str>::new(), "rows without a field, or twice");
    assert_eq!(met.len(), FATES.len(), "a path has two rows");
}

#[test]
fn calls_that_are_refused_whole_are_those_that_are_not_built() {
    let refused: BTreeSet<_> = FATES.iter().filter(|row| !row.path.contains('.')).map(|row| row.path).collect();
    let pool = pool();
    for (call, request) in calls(&pool) {
        let unbuilt = UNBUILT.iter().any(|(name, _)| *name == call);
        let fields = request.fields().len();
        assert_eq!(unbuilt && fields > 0, refused.contains(call.as_str()), "{call}");
    }
    assert!(UNBUILT.iter().all(|(name, _)| calls(&pool).iter().any(|(call, _)| call == name)), "a call misspelt");
}

#[test]
fn a_field_that_is_refused_is_refused_by_its_name_and_value() {
    let rows = FATES.iter().filter(|row| matches!(row.fate, Fate::Refused(_)) && row.path.contains('.'));
    let mut tried = 0;
    for row in rows {
        let (call, path) = row.path.split_once('.').unwrap();
        let names: Vec<_> = path.split('.').collect();
        let mut sent = String::new();
        let error = match call {
            "RunPodSandbox" => {
                let request = v1::RunPodSandboxRequest { config: Some(kubelet::pod()), ..Default::default() };
                let request: v1::RunPodSandboxRequest = with(&request, "RunPodSandboxRequest", &names, &mut sent);
                pod::plan(request.config, request.runtime_handler, &Host::plain()).err()
            }
            "CreateContainer" => {
                let request = v1::CreateContainerRequest { config: Some(kubelet::container()), ..Default::default() };
                let request: v1::CreateContainerRequest = with(&request, "CreateContainerRequest", &names, &mut sent);
                container::plan(request.config, &Host::plain()).err()
            }
            other => panic!("{other} refuses a field and this test cannot send it"),
        };
        let error = error.unwrap_or_else(|| panic!("{} is accepted", row.path));
        let message = match &error {
            Error::Invalid { .. } | Error::Refused { .. } => error.to_string(),
            // Stands before the rest, where the kubelet looks for it.
            Error::RefusedByPrefix { prefix, .. } => error.to_string().replacen(&format!("{prefix}: "), "", 1),
            other => panic!("{}: {other}", row.path),
        };
        // Elements of lists are named by number, `mounts[0].image`; the table names only the list.
        let named = message.split(": ").next().unwrap().replace("[0]", "");
        assert_eq!(named, path, "{message}");
        assert!(message.contains(&sent), "{}: want {sent} in: {message}", row.path);
        tried += 1;
    }
    assert!(tried > 10, "only {tried} refused fields");
}

/// The message with one field set to something it does not have by default; `sent` becomes what a refusal must repeat.
fn with<M: Message + Default>(message: &M, name: &str, path: &[&str], sent: &mut String) -> M {
    let descriptor = pool().get_message_by_name(&format!("runtime.v1.{name}")).unwrap();
    let mut dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).unwrap();
    set(&mut dynamic, path, sent);
    M::decode(dynamic.encode_to_vec().as_slice()).unwrap()
}

fn set(message: &mut DynamicMessage, path: &[&str], sent: &mut String) {
    let field = message.descriptor().get_field_by_name(path[0]).unwrap();
    if path.len() == 1 {
        let value = something(&field, sent);
        message.set_field(&field, value);
        return;
    }
    match message.get_field_mut(&field) {
        Value::Message(inner) => set(inner, &path[1..], sent),
        Value::List(elements) => match elements.first_mut() {
            Some(Value::Message(inner)) => set(inner, &path[1..], sent),
            _ => panic!("the fixture has no element in {}", path[0]),
        },
        other => panic!("{} is {other:?}", path[0]),
    }
}

fn something(field: &FieldDescriptor, sent: &mut String) -> Value {
    if field.is_map() {
        return Value::Map([(MapKey::String("odd".into()), Value::String("odd".into()))].into());
    }
    let one = match field.kind() {
        Kind::String => Value::String("odd".into()),
        Kind::Bool => Value::Bool(true),
        Kind::Int32 => Value::I32(7),
        Kind::Message(message) => Value::Message(DynamicMessage::new(message)),
        other => panic!("{} is {other:?}: say here what to send", field.full_name()),
    };
    *sent = match &one {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::String(value) => value.clone(),
        // An empty message has no value to repeat.
        _ => String::new(),
    };
    if field.is_list() { Value::List(vec![one]) } else { one }
}
