//! Host ports, as a person asks for them in a pod's file and tries them with curl: from the host, from outside, from
//! another pod and from the pod itself.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    IMAGE,
    command::Crictl,
    container,
    host::{HOST, Host, Netns, OUTSIDE},
    reach::{Attempt, Protocol, Server, UDP, expect},
    session::SOON,
};

/// The pod's ports on the host.
const WEB: u16 = 18_080;
const NAMES: u16 = 18_081;

/// A pod's file with these ports.
fn file(crictl: &Crictl, name: &str, mappings: &Value) -> String {
    let mut pod = crate::pod(crictl, name);
    pod["port_mappings"] = mappings.clone();
    crictl.file(&format!("{name}.json"), &pod)
}

/// Runs a container in a pod; its id.
fn run(crictl: &Crictl, pod: &str, pod_file: &str, name: &str, script: &str) -> String {
    let own = crictl.file(&format!("{name}-container.json"), &container(name, &["sh", "-c", script]));
    let id = crictl.ok(&["create", pod, &own, pod_file]).trim().to_owned();
    crictl.ok(&["start", &id]);
    id
}

/// The page that curl gets in a namespace, or why it gets none.
fn curl(netns: &Netns, url: &str) -> Result<String, String> {
    // In brackets stand addresses, and no patterns.
    let output = netns.try_run(&format!("curl --silent --show-error --globoff --max-time 5 {url}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

pub(crate) async fn mapped() {
    let host = Host::new();
    let crictl = Crictl::on(&host);
    crictl.ok(&["pull", IMAGE]);
    // The protocols are those of CRI: TCP is 0, UDP is 1.
    let mappings = json!([
        { "protocol": 0, "container_port": 80, "host_port": WEB },
        { "protocol": 1, "container_port": UDP, "host_port": NAMES },
    ]);
    let web_file = file(&crictl, "web", &mappings);
    let web = crictl.ok(&["runp", &web_file]).trim().to_owned();
    let serve = |text: &str| format!("mkdir /www; echo {text} > /www/index.html; exec httpd -f -p 80 -h /www");
    let server = run(&crictl, &web, &web_file, "server", &serve("served"));
    let other_file = file(&crictl, "other", &json!([]));
    let other = crictl.ok(&["runp", &other_file]).trim().to_owned();
    let asks = run(&crictl, &other, &other_file, "asks", "exec sleep 1000");

    let urls = HOST.map(|ip| format!("http://{}/", SocketAddr::new(ip.parse().unwrap(), WEB)));
    let local = format!("http://127.0.0.1:{WEB}/");
    for (who, netns, urls) in [
        ("the host", &host.netns, &[&urls[..], std::slice::from_ref(&local)].concat()[..]),
        ("outside", &host.outside, &urls[..]),
    ] {
        for url in urls {
            let page = eventually(SOON, &format!("{who} gets {url}"), || curl(netns, url));
            assert_eq!(page, "served", "{who} from {url}");
        }
    }
    for url in &urls {
        for who in [&asks, &server] {
            let page = crictl.ok(&["exec", "-s", who, "wget", "-q", "-O", "-", url]);
            assert_eq!(page.trim(), "served", "{url} from within a pod");
        }
    }
    let inspected = crictl.json(&["inspectp", &web]);
    let namespaces = inspected["info"]["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let netns = namespaces.iter().find(|one| one["type"] == "network").unwrap();
    let inside = Server::new(&Netns::at(netns["path"].as_str().unwrap()));
    let datagrams = [&host.netns, &host.outside].into_iter().zip([HOST, OUTSIDE]).flat_map(|(from, own)| {
        HOST.into_iter().zip(own).map(move |(to, own)| {
            let to = SocketAddr::new(to.parse::<IpAddr>().unwrap(), NAMES);
            (Attempt { name: format!("{own} to {to}"), from, to, protocol: Protocol::Udp }, format!("as {own}"))
        })
    });
    expect("datagrams", datagrams.collect());
    drop(inside);

    // Who wants a port that is taken is told which, and has left nothing.
    let rival = file(&crictl, "rival", &json!([{ "protocol": 0, "container_port": 80, "host_port": WEB }]));
    let told = crictl.fails(&["runp", &rival]);
    assert!(told.contains(&WEB.to_string()) && told.contains(&web), "{told}");
    assert_eq!(crictl.ok(&["pods", "-q", "--name", "rival"]).trim(), "");

    // A pod that has stopped has no ports; the next one has them.
    crictl.ok(&["stopp", &web]);
    assert!(curl(&host.outside, &urls[0]).is_err(), "nobody serves");
    let rival_id = crictl.ok(&["runp", &rival]).trim().to_owned();
    run(&crictl, &rival_id, &rival, "next", &serve("next"));
    for url in &urls {
        assert_eq!(eventually(SOON, "the next pod serves", || curl(&host.outside, url)), "next");
    }
    crictl.ok(&["rmp", "-f", "-a"]);
    for url in &urls {
        assert!(curl(&host.netns, url).is_err(), "{url} is nobody's");
    }
    crictl.finish().await;
}
