//! Capabilities: the default ones, those added, those taken.

use api::cri::v1::{Capability, ContainerConfig, Int64Value};
use serde_json::Value;

use crate::scene::{Scene, probe, security};

/// AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID
/// SYS_CHROOT: what containers of the field have.
const DEFAULT: u64 = 0xa804_25fb;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_TIME: u64 = 1 << 25;

fn asking(name: &str, add: &[&str], drop: &[&str]) -> ContainerConfig {
    let mut config = probe(name, &["report"]);
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    security(&mut config).capabilities =
        Some(Capability { add_capabilities: words(add), drop_capabilities: words(drop), ..Default::default() });
    config
}

pub(super) fn set(report: &Value, name: &str) -> u64 {
    u64::from_str_radix(report["capabilities"][name].as_str().unwrap(), 16).unwrap()
}

/// Every capability that this kernel knows and we have.
pub(super) fn all() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn capabilities_are_the_default_ones_changed_as_asked() {
    let mut scene = Scene::new().await;
    for (config, wanted) in [
        (asking("default", &[], &[]), DEFAULT),
        (asking("add", &["NET_ADMIN"], &[]), DEFAULT | NET_ADMIN),
        (asking("spelling", &["CAP_NET_ADMIN", "sys_time"], &[]), DEFAULT | NET_ADMIN | SYS_TIME),
        (asking("drop", &[], &["NET_RAW"]), DEFAULT & !NET_RAW),
        (asking("both", &["NET_ADMIN"], &["NET_RAW", "NET_ADMIN"]), DEFAULT & !NET_RAW),
        (asking("all", &["ALL"], &[]), all()),
        (asking("all-but", &["ALL"], &["NET_RAW"]), all() & !NET_RAW),
        (asking("none", &[], &["ALL"]), 0),
        (asking("only", &["NET_ADMIN"], &["all"]), NET_ADMIN),
    ] {
        let name = config.metadata.as_ref().unwrap().name.clone();
        let report = scene.report(&config).await;
        for kind in ["bounding", "permitted", "effective"] {
            let (have, wanted) = (set(&report, kind), wanted & all());
            assert_eq!(have, wanted, "{name}: {kind}: {have:x}, not {wanted:x}");
        }
        assert_eq!((set(&report, "inheritable"), set(&report, "ambient")), (0, 0), "{name}");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn another_user_than_root_has_none_but_the_bounds() {
    let mut scene = Scene::new().await;
    let mut config = asking("user", &["NET_ADMIN"], &[]);
    security(&mut config).run_as_user = Some(Int64Value { value: 1000 });
    let report = scene.report(&config).await;
    assert_eq!(set(&report, "bounding"), (DEFAULT | NET_ADMIN) & all());
    for kind in ["permitted", "effective", "inheritable", "ambient"] {
        assert_eq!(set(&report, kind), 0, "{kind}");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_capability_works_and_its_absence_too() {
    let mut scene = Scene::new().await;
    let mut config = asking("able", &["SYS_ADMIN"], &[]);
    config.args = vec!["sleep".into(), "forever".into()];
    let able = scene.start(&config).await;
    let mut config = asking("unable", &[], &[]);
    config.args = vec!["sleep".into(), "forever".into()];
    let unable = scene.start(&config).await;
    let (code, why) = scene.attempt(&unable, &["/probe", "set-hostname", "other"]).await;
    assert!(code == 1 && why.contains("EPERM"), "{why}");
    let (code, why) = scene.attempt(&unable, &["/probe", "mount", "tmpfs", "/tmp"]).await;
    assert!(code == 1 && why.contains("EPERM"), "{why}");
    scene.look(&able, &["/probe", "set-hostname", "other"]).await;
    assert_eq!(scene.report_in(&unable).await["hostname"], "other", "the name is the pod's");
    scene.look(&able, &["/probe", "mount", "tmpfs", "/tmp"]).await;
    scene.finish().await;
}
