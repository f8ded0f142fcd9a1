//! Our CRI contract is the published one: every message, field number, type, label, enum value and call, both ways.
//!
//! The table in `tests/contract/` was made from the published contract. Here it and our descriptors are each turned
//! into a set of sentences, and the sets must be equal.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::collections::BTreeSet;

use api::cri::v1;
use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};

const TABLE: &str = include_str!("../../../tests/contract/cri-runtime-v1.txt");
const PACKAGE: &str = "runtime.v1";

#[test]
fn our_cri_contract_equals_the_published_table() {
    let published = sentences_of_the_table();
    let ours = sentences_of_the_descriptors();
    let missing: Vec<_> = published.difference(&ours).collect();
    let invented: Vec<_> = ours.difference(&published).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:#?}\ninvented: {invented:#?}");
    assert!(published.len() > 700, "the table is suspiciously short: {} sentences", published.len());
}

#[test]
fn answers_whose_elements_are_kept_encoded_are_the_contracts_on_the_wire() {
    let container =
        v1::Container { id: "c".into(), labels: [("app".into(), "web".into())].into(), ..Default::default() };
    let containers = vec![container.encode_to_vec().into(), v1::Container::default().encode_to_vec().into()];
    let listed = v1::ListContainersResponse { containers: containers.clone() }.encode_to_vec();
    let streamed = v1::StreamContainersResponse { containers }.encode_to_vec();
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    for (name, bytes) in [("ListContainersResponse", listed), ("StreamContainersResponse", streamed)] {
        let contract = pool.get_message_by_name(&format!("{PACKAGE}.{name}")).unwrap();
        let message = DynamicMessage::decode(contract, bytes.as_slice()).unwrap();
        let elements = message.get_field_by_name("containers").unwrap().into_owned();
        let [Value::Message(first), Value::Message(second)] = elements.as_list().unwrap() else { panic!("{name}") };
        assert_eq!(first.transcode_to::<v1::Container>().unwrap(), container, "{name}");
        assert_eq!(second.transcode_to::<v1::Container>().unwrap(), v1::Container::default(), "{name}");
    }
}

/// `message M`, `M 3 name: type`, `enum E 0 NAME`, `Service.Call: A -> B`.
fn sentences_of_the_table() -> BTreeSet<String> {
    let mut sentences = BTreeSet::new();
    // What the indented lines belong to, and the nested enum, if one is open.
    let (mut owner, mut nested) = (String::new(), None::<String>);
    for line in TABLE.lines() {
        let (words, indented) = (line.split_whitespace().collect::<Vec<_>>(), line.starts_with(' '));
        match words.as_slice() {
            [] => nested = None,
            ["package", name] => assert_eq!(*name, PACKAGE),
            ["enum", name] if indented => {
                sentences.insert(format!("enum {owner}.{name}"));
                nested = Some(format!("{owner}.{name}"));
            }
            [kind @ ("service" | "enum" | "message"), name, ..] if !indented => {
                owner = (*name).to_owned();
                sentences.insert(format!("{kind} {name}"));
            }
            [number, value] if !number.ends_with(':') && number.parse::<i32>().is_ok() => {
                sentences.insert(format!("value {}.{value} = {number}", nested.as_deref().unwrap_or(&owner)));
            }
            [number, ..] if number.parse::<u32>().is_ok() => {
                sentences.insert(format!("field {owner} {}", words.join(" ")));
            }
            [call, ..] if call.ends_with(':') => {
                sentences.insert(format!("call {owner}.{}", words.join(" ")));
            }
            other => panic!("the table has a line this test cannot read: {other:?}"),
        }
    }
    sentences
}

fn sentences_of_the_descriptors() -> BTreeSet<String> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let mut sentences = BTreeSet::new();
    for message in pool.all_messages().filter(|m| m.package_name() == PACKAGE && !m.is_map_entry()) {
        sentences.insert(format!("message {}", local(message.full_name())));
        sentences.extend(message.fields().map(|field| sentence_of(&message, &field)));
        assert_eq!(message.oneofs().len(), 0, "{} has a oneof or an optional scalar", message.full_name());
    }
    for enumeration in pool.all_enums().filter(|e| e.package_name() == PACKAGE) {
        sentences.extend(sentences_of_enum(&enumeration));
    }
    for service in pool.services().filter(|s| s.package_name() == PACKAGE) {
        sentences.insert(format!("service {}", service.name()));
        for call in service.methods() {
            assert!(!call.is_client_streaming(), "{} takes a stream", call.full_name());
            let stream = if call.is_server_streaming() { "stream " } else { "" };
            let (input, output) = (call.input(), call.output());
            sentences.insert(format!(
                "call {}.{}: {} -> {stream}{}",
                service.name(),
                call.name(),
                input.name(),
                output.name()
            ));
        }
    }
    sentences
}

fn sentence_of(message: &MessageDescriptor, field: &FieldDescriptor) -> String {
    let label = if field.cardinality() == Cardinality::Repeated && !field.is_map() { "repeated " } else { "" };
    let options = field.field_descriptor_proto().options.as_ref();
    let deprecated = if options.is_some_and(|o| o.deprecated()) { " [deprecated]" } else { "" };
    let (number, name) = (field.number(), field.name());
    format!("field {} {number} {name}: {label}{}{deprecated}", local(message.full_name()), kind(&field.kind()))
}

fn sentences_of_enum(enumeration: &EnumDescriptor) -> BTreeSet<String> {
    let name = local(enumeration.full_name());
    enumeration
        .values()
        .map(|value| format!("value {name}.{} = {}", value.name(), value.number()))
        .chain([format!("enum {name}")])
        .collect()
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Message(entry) if entry.is_map_entry() => {
            let of = |field: FieldDescriptor| self::kind(&field.kind());
            format!("map<{}, {}>", of(entry.map_entry_key_field()), of(entry.map_entry_value_field()))
        }
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(enumeration) => enumeration.name().to_owned(),
        scalar => format!("{scalar:?}"),
    }
}

fn local(full_name: &str) -> &str {
    full_name.strip_prefix("runtime.v1.").expect("only asked of names in the package")
}
