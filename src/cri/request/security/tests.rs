//! Security contexts: what passes, what is refused, and which field is named.

#![allow(deprecated)]

use super::*;

const FIELD: Field<'static> = Field::root("security_context");

fn read(wire: v1::LinuxContainerSecurityContext) -> Result<Security, Error> {
    of_container(&FIELD, Some(wire), &Host::plain())
}

fn id(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn profile(kind: ProfileType, reference: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.into() })
}

#[test]
fn an_absent_profile_is_unconfined_and_an_empty_one_the_default() {
    assert_eq!(read(v1::LinuxContainerSecurityContext::default()).unwrap().seccomp, Seccomp::Unconfined);
    let empty = v1::LinuxContainerSecurityContext { seccomp: Some(Default::default()), ..Default::default() };
    assert_eq!(read(empty).unwrap().seccomp, Seccomp::RuntimeDefault);
}

#[test]
fn a_new_profile_field_wins_over_the_old_one() {
    let wire = v1::LinuxContainerSecurityContext {
        seccomp: profile(ProfileType::Unconfined, ""),
        seccomp_profile_path: "nonsense".into(),
        apparmor: profile(ProfileType::Unconfined, ""),
        apparmor_profile: "localhost/missing".into(),
        ..Default::default()
    };
    let security = read(wire).unwrap();
    assert_eq!((security.seccomp, security.apparmor), (Seccomp::Unconfined, AppArmor::Unconfined));
}

#[test]
fn a_seccomp_file_is_absolute_with_or_without_the_old_word() {
    for reference in ["/var/lib/kubelet/seccomp/a.json", "localhost//var/lib/kubelet/seccomp/a.json"] {
        let wire = v1::LinuxContainerSecurityContext {
            seccomp: profile(ProfileType::Localhost, reference),
            ..Default::default()
        };
        let want = Seccomp::Localhost(PathBuf::from("/var/lib/kubelet/seccomp/a.json"));
        assert_eq!(read(wire).unwrap().seccomp, want);
    }
}

#[test]
fn capability_names_lose_case_and_prefix() {
    let wire = v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: vec!["cap_net_admin".into(), "ALL".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(read(wire).unwrap().capabilities.add, ["NET_ADMIN", "ALL"]);
}

#[test]
fn a_default_apparmor_profile_is_left_off_a_privileged_container_only() {
    let wire = |privileged| v1::LinuxContainerSecurityContext {
        privileged,
        apparmor: profile(ProfileType::RuntimeDefault, ""),
        ..Default::default()
    };
    assert_eq!(read(wire(true)).unwrap().apparmor, AppArmor::Unconfined);
    assert!(matches!(read(wire(false)), Err(Error::Invalid { .. })), "can never be on a host without AppArmor");
    let host = Host { apparmor: true, ..Host::plain() };
    assert!(matches!(of_container(&FIELD, Some(wire(false)), &host), Err(Error::Refused { .. })), "not built");
}

#[test]
fn what_can_never_be_is_refused_by_name() {
    type Change = fn(&mut v1::LinuxContainerSecurityContext);
    let wrong: [(&str, Change); 16] = [
        ("run_as_user", |s| s.run_as_user = id(-1)),
        ("run_as_user", |s| s.run_as_user = id(1 << 31)),
        ("run_as_group", |s| s.run_as_group = id(5)),
        ("run_as_group", |s| (s.run_as_user, s.run_as_group) = (id(1), id(-5))),
        ("run_as_username", |s| (s.run_as_user, s.run_as_username) = (id(1), "nobody".into())),
        ("run_as_username", |s| s.run_as_username = "a:b".into()),
        ("supplemental_groups[1]", |s| s.supplemental_groups = vec![0, i64::MIN]),
        ("supplemental_groups", |s| s.supplemental_groups = vec![1; 70_000]),
        ("supplemental_groups_policy", |s| s.supplemental_groups_policy = 9),
        ("capabilities.drop_capabilities[0]", |s| {
            s.capabilities = Some(v1::Capability { drop_capabilities: vec!["".into()], ..Default::default() });
        }),
        ("masked_paths[0]", |s| s.masked_paths = vec!["proc/kcore".into()]),
        ("readonly_paths[0]", |s| s.readonly_paths = vec!["/a\0b".into()]),
        ("seccomp.profile_type", |s| s.seccomp = Some(v1::SecurityProfile { profile_type: 7, ..Default::default() })),
        ("seccomp.localhost_ref", |s| s.seccomp = profile(ProfileType::Localhost, "profiles/a.json")),
        ("apparmor.localhost_ref", |s| s.apparmor = profile(ProfileType::Localhost, "localhost/")),
        ("apparmor_profile", |s| s.apparmor_profile = "localhost/missing".into()),
    ];
    for (name, change) in wrong {
        let mut wire = v1::LinuxContainerSecurityContext::default();
        change(&mut wire);
        let error = read(wire).expect_err(name);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("security_context.{name}: ")), "{error}");
    }
}
