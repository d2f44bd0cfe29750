//! Promise: what the documents show works as it stands there.

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

#[test]
fn the_page_about_foreign_peers_shows_valid_configurations() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/foreign-peers.md")).unwrap();
    let shown = page.split("```toml\n# ").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut names = Vec::new();
    for (name, text) in shown.map(|text| text.split_once('\n').unwrap()) {
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
            if word.ends_with(".rs") {
                source = fs::read_to_string(root.join(word)).unwrap_or_else(|error| panic!("{word}: {error}"));
            } else {
                assert!(source.contains(&format!("#[test]\nfn {word}()")), "no test {word} where the page says");
                found += 1;
            }
        }
    }
    assert!(found > 40, "{found} tests are named");
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
