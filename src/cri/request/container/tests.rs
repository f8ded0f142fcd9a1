//! Container configurations: what a kubelet sends passes, and every bad value is refused under its name.

use model::ContainerPid;

use super::*;
use crate::request::kubelet;

fn read(config: v1::ContainerConfig) -> Result<ContainerPlan, Error> {
    plan(Some(config), &Host::plain())
}

#[test]
fn what_a_kubelet_sends_becomes_a_plan() {
    let plan = read(kubelet::container()).unwrap();
    assert_eq!(plan.log_path, Some(PathBuf::from("web/0.log")));
    assert_eq!(plan.mounts.len(), 3);
    assert_eq!(plan.security.pid, ContainerPid::Container);
    assert_eq!(plan.security.run_as.user, model::UserChoice::Id(0));
    assert_eq!(plan.resources.hugepages.len(), 2);
    assert_eq!(plan.stdin, Stdin::Null);
    assert_eq!(plan.stop_signal, None);
}

#[test]
fn a_container_needs_no_more_than_a_name_and_an_image() {
    let v1::ContainerConfig { metadata, image, .. } = kubelet::container();
    let config = v1::ContainerConfig { metadata, image, ..Default::default() };
    let plan = read(config).unwrap();
    assert_eq!(plan.security.pid, ContainerPid::Pod, "absent namespace options are zeros, and zero is POD");
    assert_eq!((plan.working_dir, plan.log_path, plan.resources), (None, None, Resources::default()));
}

#[test]
fn environment_values_are_any_bytes_but_nul() {
    let mut config = kubelet::container();
    config.envs = vec![v1::KeyValue { key: "A".into(), value: vec![0xff, 0xfe, b'\n'] }];
    assert_eq!(read(config).unwrap().envs[0].value, [0xff, 0xfe, b'\n']);
}

#[test]
fn what_is_not_built_is_refused_by_name_and_never_dropped() {
    type Change = fn(&mut v1::ContainerConfig);
    let refused: [(&str, Change); 3] = [
        ("CDI_devices", |c| c.cdi_devices = vec![v1::CdiDevice { name: "nvidia.com/gpu=0".into() }]),
        ("annotations[\"cdi.k8s.io/gpu\"]", |c| {
            c.annotations.insert("cdi.k8s.io/gpu".into(), "nvidia.com/gpu=0".into());
        }),
        ("windows", |c| c.windows = Some(v1::WindowsContainerConfig::default())),
    ];
    for (name, change) in refused {
        let mut config = kubelet::container();
        change(&mut config);
        let error = read(config).expect_err(name);
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("config.{name}: ")), "{error}");
    }
}

#[test]
fn what_can_never_be_is_refused_by_name() {
    assert!(plan(None, &Host::plain()).unwrap_err().to_string().starts_with("config: None"));
    type Change = fn(&mut v1::ContainerConfig);
    let wrong: [(&str, Change); 23] = [
        ("metadata", |c| c.metadata = None),
        ("metadata.name", |c| c.metadata = Some(v1::ContainerMetadata::default())),
        ("image", |c| c.image = None),
        ("image.image", |c| c.image = Some(v1::ImageSpec::default())),
        ("image.image", |c| c.image.as_mut().unwrap().image = "x".repeat(5000)),
        ("image.runtime_handler", |c| c.image.as_mut().unwrap().runtime_handler = "kata".into()),
        ("image.user_specified_image", |c| c.image.as_mut().unwrap().user_specified_image = "a\0b".into()),
        ("command[1]", |c| c.command = vec!["a".into(), "b\0".into()]),
        ("command[0]", |c| c.command = vec!["x".repeat(200_000)]),
        ("args", |c| c.args = vec!["x".repeat(100_000); 100]),
        ("working_dir", |c| c.working_dir = "srv".into()),
        ("envs[0].key", |c| c.envs[0].key.clear()),
        ("envs[0].key", |c| c.envs[0].key = "A=B".into()),
        ("envs[0].key", |c| c.envs[0].key = "A\0".into()),
        ("envs[0].value", |c| c.envs[0].value = vec![b'a', 0]),
        ("envs[0].value", |c| c.envs[0].value = vec![b'a'; 140_000]),
        ("mounts", |c| c.mounts = vec![c.mounts[0].clone(); 5000]),
        ("devices", |c| c.devices = vec![v1::Device::default(); 5000]),
        ("log_path", |c| c.log_path = "/etc/passwd".into()),
        ("log_path", |c| c.log_path = "../../etc/passwd".into()),
        ("log_path", |c| c.log_path = ".".into()),
        ("stop_signal", |c| c.stop_signal = 1000),
        ("labels", |c| c.labels = [("x".to_owned(), "x".repeat(2 << 20))].into()),
    ];
    for (name, change) in wrong {
        let mut config = kubelet::container();
        change(&mut config);
        let error = read(config).expect_err(name);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("config.{name}: ")), "want {name}: {error}");
        assert!(error.to_string().len() < 1000, "{name}: {} bytes of message", error.to_string().len());
    }
}
