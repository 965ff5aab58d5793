//! What lies in the cache afterwards, and who is asked for it.

use std::fs;
use std::thread;

use super::super::Token;
use super::server::{Fault, Server, commit, git, sha256};
use super::{FETCHED, HubError, MODEL, Site, Told, WEIGHTS, Wanted, contents};

#[test]
fn a_snapshot_is_laid_out_as_python_does() {
    let server = Server::new(MODEL);
    let site = Site::new(&server);
    let mut told = Told::default();
    let snapshot = site.fetch("a/b", &mut told).unwrap();
    assert_eq!(snapshot, site.repo().join("snapshots").join(commit(1)));
    let mut expected: Vec<(String, Vec<u8>)> = Vec::new();
    for name in FETCHED {
        let (_, bytes) = MODEL.iter().find(|(other, _)| *other == name).unwrap();
        expected.push((name.to_owned(), bytes.to_vec()));
    }
    expected.sort();
    assert_eq!(contents(&snapshot), expected);
    assert_eq!(fs::read_to_string(site.repo().join("refs/main")).unwrap(), commit(1));
    let link = fs::read_link(snapshot.join(WEIGHTS)).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../../blobs/{}", sha256(&[7; 100_000])));
    let nested = fs::read_link(snapshot.join(FETCHED[0])).unwrap();
    assert_eq!(nested.to_str().unwrap(), format!("../../../blobs/{}", git(b"{{ tools }}")));
    assert!(fs::read_to_string(site.settings.cache.join("CACHEDIR.TAG")).unwrap().starts_with("Signature: 8a477f"));
    assert_eq!(told.planned, [(1, 100_000)]);
    assert_eq!(told.begun.len(), FETCHED.len());
    assert_eq!(told.begun.last().unwrap(), &(WEIGHTS.to_owned(), 100_000, 0));
    assert_eq!((told.ended, told.at), (FETCHED.len(), 100_000));
    assert!(contents(&site.repo().join("blobs")).iter().all(|(name, _)| !name.contains('.')));
}

#[test]
fn nothing_is_fetched_twice() {
    let server = Server::new(MODEL);
    let site = Site::new(&server);
    site.fetch("a/b", &mut ()).unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 1 + 2 * FETCHED.len() - 1, "a file without bytes needs no GET: {requests:?}");
    site.fetch("a/b", &mut ()).unwrap();
    assert_eq!(server.requests(), ["GET list"]);
    // A commit does not change: nobody need be asked.
    site.fetch(&format!("a/b@{}", commit(1)), &mut ()).unwrap();
    assert!(server.requests().is_empty());
    // A new commit that changes one file.
    let mut files = MODEL.to_vec();
    files[0] = ("config.json", b"{}");
    server.set(2, &files);
    server.state().refs.insert("main".to_owned(), commit(2));
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000]);
    let gets: Vec<String> = server.requests().into_iter().filter(|one| one.starts_with("GET")).collect();
    assert_eq!(gets, ["GET list"], "the new config has the bytes of generation_config.json");
    assert_eq!(fs::read_to_string(site.repo().join("refs/main")).unwrap(), commit(2));
}

#[test]
fn branches_tags_and_commits_are_revisions() {
    let server = Server::new(MODEL);
    server.set(2, &[("config.json", b"[2]"), ("model.safetensors", b"two")]);
    server.state().refs.insert("refs/pr/1".to_owned(), commit(2));
    let site = Site::new(&server);
    for id in ["a/b@refs/pr/1".to_owned(), format!("a/b@{}", commit(2))] {
        let snapshot = site.fetch(&id, &mut ()).unwrap();
        assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), b"[2]");
    }
    assert_eq!(fs::read_to_string(site.repo().join("refs/refs/pr/1")).unwrap(), commit(2));
    assert_eq!(server.take_log()[0].path, "/api/models/a/b/revision/refs%2Fpr%2F1?blobs=true");
    assert!(!site.repo().join("refs").join(commit(2)).exists());
}

#[test]
fn shards_are_those_of_the_index() {
    let index =
        br#"{"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}"#;
    let files: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", b"one"),
        ("model-00002-of-00002.safetensors", b"two"),
        ("consolidated.safetensors", b"both"),
    ];
    let server = Server::new(files);
    let site = Site::new(&server);
    let mut told = Told::default();
    let snapshot = site.fetch_as("a/b", Wanted::ModelWithoutWeights, &mut told).unwrap();
    assert_eq!((contents(&snapshot).len(), told.planned.len()), (1, 0));
    let snapshot = site.fetch("a/b", &mut told).unwrap();
    assert_eq!((contents(&snapshot).len(), told.planned.as_slice()), (4, &[(2, 6)][..]));
    server.set(1, &files[..3]);
    let other = Site::new(&server);
    other.refused(&["names the shard model-00002-of-00002.safetensors, which the repository does not have"]);
    let evil = br#"{"weight_map": {"x": "../../../../evil"}}"#;
    server.set(1, &[("config.json", b"{}"), ("model.safetensors.index.json", evil)]);
    let other = Site::new(&server);
    other.refused(&["tensor `x` is placed in `../../../../evil`"]);
}

#[test]
fn adapters_and_models_are_told_apart() {
    let adapter: &[(&str, &[u8])] =
        &[("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"a"), ("optimizer.pt", b"o")];
    let server = Server::new(adapter);
    let site = Site::new(&server);
    let snapshot = site.fetch_as("a/b", Wanted::Adapter, &mut ()).unwrap();
    assert_eq!(contents(&snapshot).len(), 2);
    site.refused(&["has no config.json among its 3 files", "it is an adapter: give it as --adapter"]);
    server.set(1, MODEL);
    let error = site.fetch_as("a/b", Wanted::Adapter, &mut ()).unwrap_err().to_string();
    assert!(error.contains("has no adapter_config.json") && error.contains("it is a model"), "{error}");
    server.set(1, &[("config.json", b"{}"), ("weights.gguf", b"g")]);
    site.refused(&["its weights are in no form that is read here; it has weights.gguf"]);
}

#[test]
fn offline_the_cache_is_enough_or_names_what_is_missing() {
    let server = Server::new(MODEL);
    let mut site = Site::new(&server);
    site.settings.offline = true;
    site.refused(&["no folder of that name here", "lacks the revision \"main\"", "unset HF_HUB_OFFLINE"]);
    site.settings.offline = false;
    site.fetch_as("a/b", Wanted::ModelWithoutWeights, &mut ()).unwrap();
    site.settings.offline = true;
    server.requests();
    site.fetch_as("a/b", Wanted::ModelWithoutWeights, &mut ()).unwrap();
    let lacks = format!("lacks model.safetensors of the commit {}", commit(1));
    assert!(matches!(site.refused(&[&lacks]), HubError::NotCached { .. }));
    site.settings.offline = false;
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    server.requests();
    site.settings.offline = true;
    assert_eq!(site.fetch("a/b", &mut ()).unwrap(), snapshot);
    assert_eq!(site.fetch(&format!("a/b@{}", commit(1)), &mut ()).unwrap(), snapshot);
    // As Python leaves it: without a listing.
    fs::remove_dir_all(site.repo().join("listings")).unwrap();
    assert_eq!(site.fetch("a/b", &mut ()).unwrap(), snapshot);
    fs::remove_file(snapshot.join("config.json")).unwrap();
    site.refused(&["lacks config.json of the commit"]);
    assert!(server.requests().is_empty());
}

#[test]
fn offline_an_index_names_the_missing_shards() {
    let server = Server::new(MODEL);
    let mut site = Site::new(&server);
    site.settings.offline = true;
    let snapshot = site.repo().join("snapshots").join(commit(1));
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(site.repo().join("refs")).unwrap();
    fs::write(site.repo().join("refs/main"), commit(1)).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    site.refused(&["lacks weights of the commit"]);
    fs::write(snapshot.join("model.safetensors.index.json"), r#"{"weight_map": {"x": "s-1", "y": "s-2"}}"#).unwrap();
    fs::write(snapshot.join("s-1"), "").unwrap();
    site.refused(&["lacks s-2 of the commit"]);
    fs::write(site.repo().join("refs/main"), "../../../etc").unwrap();
    site.refused(&["lacks the revision \"main\""]);
}

#[test]
fn a_hub_out_of_reach_leaves_the_cache() {
    let server = Server::new(MODEL);
    let site = Site::new(&server);
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    server.fail("GET", "/api/", 2, Fault::Status(503, vec![]));
    let mut told = Told::default();
    assert_eq!(site.fetch("a/b", &mut told).unwrap(), snapshot);
    assert!(told.messages.last().unwrap().contains("going on with what the cache has"), "{:?}", told.messages);
    // Not where only half of it is there.
    let half = Site::new(&server);
    half.fetch_as("a/b", Wanted::ModelWithoutWeights, &mut ()).unwrap();
    server.fail("GET", "/api/", 3, Fault::Status(503, vec![]));
    half.refused(&["answered 503", "given up after 3 attempt(s)"]);
    // And not where the hub says no.
    server.state().token = Some("hf_x".to_owned());
    assert!(matches!(site.fetch("a/b", &mut ()), Err(HubError::NoModel { .. })));
}

#[test]
fn a_cache_that_may_not_be_written_can_be_used() {
    let server = Server::new(MODEL);
    let site = Site::new(&server);
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    // In the way of the folder, which nobody can make now; permissions would not stop root.
    fs::remove_dir_all(site.repo().join("listings")).unwrap();
    fs::write(site.repo().join("listings"), "").unwrap();
    assert_eq!(site.fetch("a/b", &mut ()).unwrap(), snapshot);
    fs::remove_file(snapshot.join(WEIGHTS)).unwrap();
    let error = site.fetch("a/b", &mut ()).unwrap_err().to_string();
    assert!(error.contains("listings: creating the folder failed"), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, cdn) = (Server::new(MODEL), Server::new(MODEL));
    server.state().token = Some("hf_secret".to_owned());
    server.state().cdn = Some(cdn.url.clone());
    let mut site = Site::new(&server);
    site.settings.token = Some(Token::new("hf_secret", "HF_TOKEN").unwrap());
    site.fetch("a/b", &mut ()).unwrap();
    assert!(server.take_log().iter().all(|seen| seen.header("authorization") == Some("Bearer hf_secret")));
    let elsewhere = cdn.take_log();
    assert_eq!(elsewhere.len(), 1);
    assert!(elsewhere[0].path.starts_with("/cdn/") && elsewhere[0].header("authorization").is_none());
    assert_eq!(elsewhere[0].header("accept-encoding"), Some("identity"));
    // A renamed repository: the hub redirects within itself, and goes on seeing the token.
    let moved = |to: &str| Fault::Status(307, vec![("Location", to.to_owned())]);
    server.fail("GET", "/api/models/old/name", 1, moved("/api/models/a/b/revision/main?blobs=true"));
    server.fail("HEAD", "/old/name/resolve", 9, moved(&format!("/a/b/resolve/{}/config.json", commit(1))));
    server.fail("GET", "/old/name/resolve", 9, moved(&format!("{}/a/b/resolve/{}/config.json", server.url, commit(1))));
    server.set(1, &[("config.json", b"{}"), ("mm_projector.bin", b"{}")]);
    site.fetch_as("old/name", Wanted::ModelWithoutWeights, &mut ()).unwrap();
    assert!(server.take_log().iter().all(|seen| seen.header("authorization").is_some()));
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let server = Server::new(MODEL);
    let site = Site::new(&server);
    let folders: Vec<_> = thread::scope(|scope| {
        let fetch = || scope.spawn(|| site.fetch("a/b", &mut ()).unwrap());
        let threads = [fetch(), fetch(), fetch()];
        threads.map(|thread| thread.join().unwrap()).to_vec()
    });
    assert!(folders.iter().all(|one| *one == folders[0]));
    let gets = server.requests().into_iter().filter(|one| one.starts_with("GET") && one != "GET list").count();
    assert_eq!(gets, FETCHED.len() - 1);
    assert_eq!(contents(&folders[0]).len(), FETCHED.len());
}

#[test]
fn without_links_a_snapshot_holds_the_files() {
    let server = Server::new(MODEL);
    let mut site = Site::new(&server);
    site.settings.symlinks = false;
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    assert!(snapshot.join(WEIGHTS).symlink_metadata().unwrap().is_file());
    assert_eq!(contents(&snapshot).len(), FETCHED.len());
    server.requests();
    site.fetch("a/b", &mut ()).unwrap();
    assert_eq!(server.requests(), ["GET list"]);
}
