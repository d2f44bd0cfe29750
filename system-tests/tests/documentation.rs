//! Promise: what the README shows works as it stands there.

use std::{fs, path::Path};

use umbilical_system_tests::{
    deployment::{Deployment, Setup, Topology},
    process::run,
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
