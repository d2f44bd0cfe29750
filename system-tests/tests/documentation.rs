//! Promise: what the documents show works as it stands there.

use std::{env, fs, path::Path, process::Command};

use umbilical_system_tests::{
    binaries,
    deployment::{Deployment, Setup, Topology},
    process::{Process, run},
    wait,
};

#[test]
fn the_readme_shows_valid_configurations() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let shown: Vec<&str> = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [agent, cloud] = shown[..] else { panic!("the README shows {} configurations instead of two", shown.len()) };

    let deployment = Setup::new(Topology::Embedded).write();
    write_with_files(&deployment, "agent.toml", agent);
    run("umbilical-agent --check", deployment.agent_command().arg("--check"), wait::SOON);
    write_with_files(&deployment, "cloud.toml", cloud);
    run("umbilical-cloud check", &mut deployment.cloud_command("check", "cloud.toml"), wait::SOON);
}

#[test]
fn the_page_about_foreign_peers_shows_valid_configurations() {
    let page = page("foreign-peers.md");
    let mut names = Vec::new();
    for (name, text) in configurations(&page) {
        let deployment = Setup::new(Topology::Embedded).write();
        write_with_files(&deployment, name, text);
        match name {
            "agent.toml" => run("umbilical-agent --check", deployment.agent_command().arg("--check"), wait::SOON),
            _ => run("umbilical-cloud check", &mut deployment.cloud_command("check", name), wait::SOON),
        };
        names.push(name);
    }
    assert_eq!(names, ["agent.toml", "cloud.toml", "agent.toml"]);
}

#[test]
fn the_page_about_operations_shows_a_valid_configuration() {
    let page = page("operations.md");
    let [("cloud.toml", cloud)] = configurations(&page)[..] else { panic!("its configurations") };
    let deployment = Setup::new(Topology::Embedded).write();
    write_with_files(&deployment, "cloud.toml", cloud);
    run("umbilical-cloud check", &mut deployment.cloud_command("check", "cloud.toml"), wait::SOON);
}

/// In its tables: files in backticks, each with the names of tests behind it.
#[test]
fn the_page_about_resilience_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/resilience.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit_once(" | ")).map(|(_, tests)| tests);
    let mut found = 0;
    for row in rows.filter(|row| row.contains('`')) {
        let mut source = String::new();
        for word in row.split('`').skip(1).step_by(2) {
            if Path::new(word).extension().is_some() {
                source = fs::read_to_string(root.join(word)).unwrap_or_else(|error| panic!("{word}: {error}"));
            } else {
                let definitions = [format!("#[test]\nfn {word}()"), format!("\ndef {word}(")];
                let there = definitions.iter().any(|definition| source.contains(definition));
                assert!(there, "no test {word} where the page says");
                found += 1;
            }
        }
    }
    assert!(found > 40, "{found} tests are named");
}

#[test]
fn the_page_about_hybrid_connections_made_at_run_time_shows_what_works() {
    let page = page("management.md");
    let [("cloud.toml", cloud), ("agent.toml", agent)] = configurations(&page)[..] else {
        panic!("its configurations")
    };
    let deployment = Setup::new(Topology::Embedded).write();
    let cloud = cloud.replace("0.0.0.0:443", &deployment.relay.to_string());
    write_with_files(&deployment, "cloud.toml", &cloud.replace("/var/lib/umbilical", &deployment.path("state")));
    let url = format!("ca-file = \"{}\"\nurl = \"{}", deployment.path("ca.pem"), deployment.relay_url());
    write_with_files(&deployment, "agent.toml", &agent.replace("url = \"wss://relay.example.net", &url));
    let relay = Process::start("relay", &mut deployment.cloud_command("run", "cloud.toml"));
    relay.line_with(&["relay listens on"], wait::SOON);
    let _agent = deployment.start_agent();
    relay.line_with(&["hybrid connection gateway-0042 made for its first listener, key fleet"], wait::SOON);
    relay.line_with(&["listener", "of gateway-0042 connected"], wait::SOON);

    let script = page.split("```bash\n").nth(1).unwrap().split("```").next().unwrap();
    let script = script.replace("relay.example.net", &format!("localhost:{}", deployment.relay.port()));
    let programs = binaries::cloud();
    let path = format!("{}:{}", programs.parent().unwrap().display(), env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &script.replace("/etc/umbilical/", &deployment.path(""))]);
    shell.env("PATH", path).env("CURL_CA_BUNDLE", deployment.path("ca.pem")).env("no_proxy", "*");
    let answers = run("what the page shows", &mut shell, wait::SOON);
    let [made, changed, all, listeners] = answers.lines().collect::<Vec<_>>()[..] else { panic!("{answers}") };
    assert!(made.contains("<UserMetadata>hall 3</UserMetadata><ListenerCount>0<"), "{made}");
    assert!(changed.contains("<UserMetadata>hall 4</UserMetadata>"), "{changed}");
    let titles = ["<title type=\"text\">gateway-0042</title>", "<title type=\"text\">plant-7</title>"];
    assert!(titles.iter().all(|title| all.contains(title)), "{all}");
    assert!(listeners.contains("<RemoteEndpoint>127.0.0.1:"), "{listeners}");
    relay.line_with(&["hybrid connection plant-7 deleted by 127.0.0.1:", "key admin"], wait::SOON);
}

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(path).expect("the page is there")
}

/// The configurations that a page shows, with the file names that stand above them.
fn configurations(page: &str) -> Vec<(&str, &str)> {
    let shown = page.split("```toml\n# ").skip(1).filter_map(|rest| rest.split("```").next()?.split_once('\n'));
    shown.collect()
}

/// The files it names are there too, in this deployment's folder; keys with a key in them.
fn write_with_files(deployment: &Deployment, name: &str, shown: &str) {
    let moved = shown.replace("/etc/umbilical/", &deployment.path(""));
    assert_ne!(moved, shown, "{name} names no files");
    deployment.write_file(name, &moved);
    for file in shown.split('"').filter_map(|word| word.strip_prefix("/etc/umbilical/")) {
        if !Path::new(&deployment.path(file)).exists() {
            deployment.write_file(file, "c29tZSBrZXk=\n");
        }
    }
}
