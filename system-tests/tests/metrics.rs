//! Promise: `/metrics` is OpenMetrics by the judgement of Prometheus' own parser, `docs/operations.md` tells of each metric
//! that there is and of no other, and its alerts are rules that Prometheus takes.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;
use umbilical_system_tests::{
    deployment::{DEVICE, Deployment, Setup, Topology},
    echo,
    files::Folder,
    packages, ports,
    process::run,
    tunnel::Tunnel,
    wait,
};

#[test]
fn each_metric_is_in_the_table_and_none_else() {
    let deployment = Setup::new(Topology::Embedded).service("echo", echo::start()).exposure("nothing").write();
    let admin = ports::free();
    let text = fs::read_to_string(deployment.path("cloud.toml")).unwrap();
    deployment.write_file("cloud.toml", &format!("{text}[admin]\nlisten = \"{admin}\"\n"));
    let tunnel = Tunnel::start_deployment(deployment);
    let echoes = || smol::block_on(echo::exchange(tunnel.exposure("echo"), 1, 1_000)).ok();
    wait::for_some("an echo", wait::SOON, echoes);
    let refused = || smol::block_on(echo::exchange(tunnel.exposure("nothing"), 1, 1_000)).err();
    wait::for_some("a refusal", wait::SOON, refused);

    let url = format!("http://{admin}/metrics");
    let families = wait::for_some("what happened to be counted", wait::SOON, || {
        let families = scrape(&tunnel.deployment, &url);
        let reset = value(&families, "umbilical_exposure_streams_reset_total", &[("reason", "not-allowed")]);
        reset.is_some().then_some(families)
    });
    let of_device = &[("device", DEVICE)][..];
    assert_eq!(value(&families, "umbilical_device_online", of_device), Some(1.0));
    assert!(value(&families, "umbilical_device_received_bytes_total", of_device) >= Some(1_000.0));

    let page = page();
    let (mut missing, documented) = (Vec::new(), documented(&page));
    let mut printed = BTreeSet::new();
    for family in &families {
        let kind = family["type"].as_str().unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let name = format!("{}{suffix}", family["name"].as_str().unwrap());
        match documented.get(&name) {
            Some((told, labels)) => {
                assert_eq!(told, kind, "{name}");
                for sample in family["samples"].as_array().unwrap() {
                    let found: BTreeSet<_> = sample["labels"].as_object().unwrap().keys().cloned().collect();
                    assert_eq!(found, *labels, "labels of {name}");
                }
            }
            None => missing.push(name.clone()),
        }
        printed.insert(name);
    }
    assert_eq!(missing, Vec::<String>::new(), "not in the table of docs/operations.md");
    let invented: Vec<_> = documented.keys().filter(|name| !printed.contains(*name)).collect();
    assert_eq!(invented, Vec::<&String>::new(), "in the table of docs/operations.md, and nowhere else");
}

#[test]
fn alerts_are_rules_about_metrics_that_there_are() {
    let page = page();
    let documented = documented(&page);
    let rules = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = Folder::new();
    let file = folder.path("alerts.yaml");
    fs::write(&file, rules).unwrap();
    let mut promtool = Command::new("promtool");
    let said = run("promtool", promtool.args(["check", "rules"]).arg(&file), wait::SOON);
    assert!(said.contains("SUCCESS: 6 rules found"), "{said}");
    let words = rules.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let named: BTreeSet<_> = words.filter(|word| word.starts_with("umbilical_")).collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        assert!(documented.contains_key(name), "an alert is about {name}, which is not in the table");
    }
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md")).unwrap()
}

/// The rows of the page's table that begin with the name of a metric: type and labels.
fn documented(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = page.lines().filter(|line| line.starts_with("| `umbilical_"));
    let rows = rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _] = cells[..] else { panic!("a row of another shape: {line}") };
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels))
    });
    rows.collect()
}

/// What Prometheus' parser finds at `url`.
fn scrape(deployment: &Deployment, url: &str) -> Vec<Value> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--output", &deployment.path("metrics"), url]);
    run("curl", &mut curl, wait::SOON);
    let folder = packages::pip("prometheus");
    let mut python = Command::new("sh");
    python.args(["-c", "exec python3 \"$0\" <\"$1\""]).arg(folder.join("families.py"));
    python.arg(deployment.path("metrics")).env("PYTHONPATH", &folder);
    serde_json::from_str(&run("families.py", &mut python, wait::SOON)).unwrap()
}

/// The value of the first sample of that name with these among its labels.
fn value(families: &[Value], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut samples = families.iter().flat_map(|family| family["samples"].as_array().unwrap());
    let is_it =
        |sample: &&Value| sample["name"] == name && labels.iter().all(|(key, value)| sample["labels"][key] == *value);
    samples.find(is_it)?["value"].as_f64()
}
