//! Everything that can go wrong on the way.

use std::fs;
use std::time::{Duration, Instant};

use super::super::Token;
use super::server::{Fault, Server, commit, git, sha256};
use super::{HubError, MODEL, Site, Told, WEIGHTS};

/// The sum of the weights in [`MODEL`].
fn sum() -> String {
    sha256(&[7; 100_000])
}

/// A hub that has not been asked, and an empty cache.
fn fresh() -> (Server, Site) {
    let server = Server::new(MODEL);
    let site = Site::new(&server);
    (server, site)
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    let (server, mut site) = fresh();
    site.settings.retries.attempts = 1;
    server.fail("GET", WEIGHTS, 1, Fault::Cut(40_000));
    site.refused(&["the answer broke off", "given up after 1 attempt(s)"]);
    assert!(site.has_no_weights(&sum()));
    assert!(!site.repo().join("refs/main").exists());
    let partial = site.blob(&format!("{}.incomplete", sum()));
    assert_eq!(fs::metadata(&partial).unwrap().len(), 40_000);
    server.take_log();
    let mut told = Told::default();
    let snapshot = site.fetch("a/b", &mut told).unwrap();
    assert_eq!(told.begun, [(WEIGHTS.to_owned(), 100_000, 40_000)]);
    let log = server.take_log();
    assert_eq!(log.last().unwrap().header("range"), Some("bytes=40000-"));
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000]);
    assert!(!partial.exists());
}

#[test]
fn a_stop_keeps_what_was_fetched() {
    let (server, site) = fresh();
    server.fail("GET", WEIGHTS, 1, Fault::Stall(50_000));
    let mut told = Told { stop_at: Some(50_000), ..Told::default() };
    let error = site.fetch("a/b", &mut told).unwrap_err();
    assert!(matches!(error, HubError::Interrupted { .. }), "{error}");
    assert_eq!(fs::metadata(site.blob(&format!("{}.incomplete", sum()))).unwrap().len(), 50_000);
    site.fetch("a/b", &mut ()).unwrap();
}

#[test]
fn what_passes_is_tried_again() {
    let busy = |status| Fault::Status(status, vec![("Retry-After", "0".to_owned())]);
    for fault in [
        busy(500),
        busy(503),
        busy(429),
        Fault::Reset,
        Fault::Cut(60_000),
        Fault::Stall(10),
        Fault::Stall(0),
        Fault::Damage,
        Fault::Longer,
        Fault::Header("Content-Length", "17".to_owned()),
        Fault::Header("Content-Length", "100001".to_owned()),
    ] {
        let (server, site) = fresh();
        server.fail("GET", WEIGHTS, 1, fault.clone());
        let snapshot = site.fetch("a/b", &mut ()).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000], "{fault:?}");
    }
    // The listing and the question for a file, too.
    let (server, site) = fresh();
    server.fail("GET", "/api/", 2, Fault::Reset);
    server.fail("HEAD", "config.json", 2, busy(502));
    let mut told = Told::default();
    site.fetch("a/b", &mut told).unwrap();
    assert!(told.messages.iter().any(|text| text.contains("answered 502") && text.contains("attempt 3 of 3")));
}

#[test]
fn a_download_that_gets_further_is_not_given_up() {
    let (server, site) = fresh();
    // Ten interruptions, where three attempts in a row are allowed to fail.
    server.fail("GET", WEIGHTS, 10, Fault::Cut(9_000));
    site.fetch("a/b", &mut ()).unwrap();
    let (server, site) = fresh();
    server.fail("GET", WEIGHTS, 10, Fault::Cut(0));
    site.refused(&["the answer broke off", "given up after 3 attempt(s)"]);
}

#[test]
fn a_server_s_wish_to_wait_is_granted_up_to_a_limit() {
    let (server, mut site) = fresh();
    site.settings.retries.longest = Duration::from_millis(300);
    server.fail("HEAD", "config.json", 1, Fault::Status(503, vec![("Retry-After", "3600".to_owned())]));
    let begun = Instant::now();
    site.fetch("a/b", &mut ()).unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn a_server_that_ignores_ranges_begins_again() {
    for fault in [
        Fault::Whole,
        Fault::Status(416, vec![]),
        Fault::Header("Content-Range", "bytes 0-99999/100000".to_owned()),
        Fault::Header("Content-Range", "bytes 40000-99999/100007".to_owned()),
        Fault::Header("Content-Range", "nonsense".to_owned()),
    ] {
        let (server, site) = fresh();
        server.fail("GET", WEIGHTS, 1, Fault::Cut(40_000));
        server.fail("GET", WEIGHTS, 1, fault.clone());
        let snapshot = site.fetch("a/b", &mut ()).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000], "{fault:?}");
    }
    // One that ignores them for ever and breaks off for ever is given up.
    let (server, site) = fresh();
    server.fail("GET", WEIGHTS, 1, Fault::Cut(40_000));
    server.fail("GET", WEIGHTS, 99, Fault::WholeCut(30_000));
    site.refused(&["the answer broke off", "given up after 3 attempt(s)"]);
}

#[test]
fn damage_never_gets_its_final_name() {
    let (server, site) = fresh();
    server.fail("GET", WEIGHTS, 9, Fault::Damage);
    let error = site.refused(&["model.safetensors arrived damaged: its SHA-256 sum is", &sum()]);
    assert!(matches!(error, HubError::Corrupt { .. }));
    assert!(site.has_no_weights(&sum()));
    let gets = server.requests().iter().filter(|one| *one == "GET model.safetensors").count();
    assert_eq!(gets, 2);
    // A leftover of other contents is found, too.
    let (_server, site) = fresh();
    fs::create_dir_all(site.repo().join("blobs")).unwrap();
    fs::write(site.blob(&format!("{}.incomplete", sum())), [9; 5000]).unwrap();
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000]);
    // And one that is too long.
    let (_server, site) = fresh();
    fs::create_dir_all(site.repo().join("blobs")).unwrap();
    fs::write(site.blob(&format!("{}.incomplete", sum())), vec![7; 100_001]).unwrap();
    site.fetch("a/b", &mut ()).unwrap();
    // Small files by git's hash.
    let (server, site) = fresh();
    server.fail("GET", "/config.json", 9, Fault::Damage);
    site.refused(&["config.json arrived damaged: its git sum is", &git(MODEL[0].1)]);
}

#[test]
fn a_cut_file_in_the_cache_is_fetched_again() {
    let (server, site) = fresh();
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    server.requests();
    fs::write(site.blob(&sum()), [7; 10]).unwrap();
    site.fetch("a/b", &mut ()).unwrap();
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000]);
    assert_eq!(server.requests(), ["GET list", "HEAD model.safetensors", "GET model.safetensors"]);
    // A link to nowhere as well.
    fs::remove_file(site.blob(&sum())).unwrap();
    site.fetch("a/b", &mut ()).unwrap();
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000]);
}

#[test]
fn refusals_say_what_to_do() {
    let (server, mut site) = fresh();
    let no = |status, code: &str, message: &str| {
        Fault::Status(status, vec![("X-Error-Code", code.to_owned()), ("X-Error-Message", message.to_owned())])
    };
    server.fail("GET", "/api/", 1, no(404, "RepoNotFound", "Repository not found"));
    site.refused(&["a/b: there is no folder of that name here", &server.url, "Repository not found", "HF_TOKEN"]);
    server.fail("GET", "/api/", 1, no(401, "", "Invalid username or password."));
    site.refused(&["shows no model of that name", "check the spelling", "hf auth login"]);
    server.fail("GET", "/api/", 1, no(404, "RevisionNotFound", "Invalid rev id: main"));
    site.refused(&["no branch, tag or commit \"main\" of it", "Invalid rev id"]);
    let error = site.fetch("a/b@v9", &mut ()).unwrap_err().to_string();
    assert!(error.contains("no branch, tag or commit \"v9\""), "{error}");
    let gated = || no(403, "GatedRepo", "Access to model a/b is restricted");
    server.fail("HEAD", "config.json", 1, gated());
    site.refused(&["access refused (403", "accept them at", &format!("{}/a/b", server.url), "set HF_TOKEN"]);
    site.settings.token = Some(Token::new("hf_secret", "HF_TOKEN").unwrap());
    server.fail("HEAD", "config.json", 1, gated());
    let error = site.refused(&["with the account of the token from HF_TOKEN"]);
    assert!(!format!("{error:?} {error}").contains("hf_secret"));
    server.fail("GET", "/api/", 1, no(401, "", "Invalid credentials in Authorization header"));
    site.refused(&["access refused (401", "Invalid credentials", "the token from HF_TOKEN must be valid"]);
    server.fail("HEAD", "config.json", 1, no(404, "EntryNotFound", "Entry not found"));
    site.refused(&["the hub lists config.json but does not have it"]);
    server.fail("GET", "/api/", 1, no(400, "", "Bad request"));
    site.refused(&["answered 400", "Bad request"]);
}

#[test]
fn answers_of_something_else_are_refused() {
    let (server, site) = fresh();
    server.fail("GET", "/api/", 1, Fault::Body("<html>Sign in to the network</html>".to_owned()));
    site.refused(&["/api/models/a/b/revision/main", "the answer is no JSON", "HF_ENDPOINT"]);
    for (name, value, needle) in [
        ("X-Repo-Commit", commit(9), "is of commit 0909"),
        ("X-Repo-Commit", "main".to_owned(), "is of commit main"),
        ("ETag", "\"../../../evil\"".to_owned(), "the ETag \"../../../evil\" is refused"),
        ("ETag", "\"\"".to_owned(), "the ETag \"\" is refused"),
        ("Content-Length", "5".to_owned(), "the listing has 23 bytes, the file 5"),
    ] {
        server.fail("HEAD", "/config.json", 1, Fault::Header(name, value));
        site.refused(&[needle]);
    }
    server.fail("HEAD", WEIGHTS, 1, Fault::Header("X-Linked-Etag", format!("\"{}\"", sha256(b"other"))));
    site.refused(&["the listing has the SHA-256 sum", &sum()]);
    server.fail("GET", WEIGHTS, 1, Fault::Header("Content-Encoding", "gzip".to_owned()));
    site.refused(&["comes compressed as gzip"]);
    server.fail("GET", WEIGHTS, 99, Fault::Status(302, vec![("Location", format!("/a/b/{WEIGHTS}"))]));
    site.refused(&["leads on more than 10 times"]);
    assert!(site.has_no_weights(&sum()));
}

#[test]
fn bad_redirects_are_refused() {
    for (location, needle) in
        [("file:///etc/passwd", "which is no address"), ("", "which is no address"), ("http://", "which is no address")]
    {
        let (server, site) = fresh();
        server.fail("GET", WEIGHTS, 1, Fault::Status(302, vec![("Location", location.to_owned())]));
        site.refused(&[needle]);
    }
    let (server, site) = fresh();
    server.fail("GET", WEIGHTS, 1, Fault::Status(302, vec![]));
    site.refused(&["302 Found leads nowhere"]);
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in ["../evil.json", "/etc/passwd", "a/../../config.json", "..\\evil.json", "config.json\0"] {
        let (server, site) = fresh();
        server.set(1, &[("config.json", b"{}"), (name, b"evil"), (WEIGHTS, b"w")]);
        let error = site.refused(&["which is refused"]);
        assert!(matches!(error, HubError::UnsafeName { .. }), "{error}");
        assert!(!site.settings.cache.exists() && fs::read_dir(site.dir.path()).unwrap().count() == 0);
    }
    for name in ["nul.safetensors", "a:b.safetensors", "x\u{1b}[2J.safetensors"] {
        let (server, site) = fresh();
        server.set(1, &[("config.json", b"{}"), (name, b"w")]);
        let error = site.refused(&["in no form that is read here"]).to_string();
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}

#[test]
fn a_disk_too_small_is_seen_before_the_download() {
    let (server, site) = fresh();
    let huge = u64::MAX / 2;
    let listing = format!(
        r#"{{"sha": "{}", "siblings": [{{"rfilename": "config.json", "size": 23, "blobId": "{}"}},
           {{"rfilename": "{WEIGHTS}", "size": {huge}, "lfs": {{"sha256": "{}", "size": {huge}}}}}]}}"#,
        commit(1),
        git(MODEL[0].1),
        sum(),
    );
    server.fail("GET", "/api/", 1, Fault::Body(listing));
    let error = site.refused(&["more bytes are needed", "HF_HUB_CACHE"]);
    assert!(matches!(error, HubError::NoSpace { free: Some(_), .. }), "{error:?}");
    assert!(!server.requests().contains(&"GET model.safetensors".to_owned()));
}

#[test]
fn a_hub_that_says_little_is_enough() {
    let (server, site) = fresh();
    server.state().terse = true;
    let snapshot = site.fetch("a/b", &mut ()).unwrap();
    assert_eq!(fs::read(snapshot.join(WEIGHTS)).unwrap(), [7; 100_000]);
    // Large files are still compared with their ETag.
    let site = Site::new(&server);
    server.fail("GET", WEIGHTS, 9, Fault::Damage);
    site.refused(&["arrived damaged: its SHA-256 sum"]);
    // No length anywhere.
    let site = Site::new(&server);
    server.fail("HEAD", "/config.json", 1, Fault::Header("Content-Length", "?".to_owned()));
    assert!(site.fetch("a/b", &mut ()).is_err());
}

#[test]
fn no_server_at_all_is_told_with_its_address() {
    let (server, mut site) = fresh();
    // Taken and given back: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.settings.endpoint = format!("http://{free}");
    let error = site.refused(&["no folder of that name here", &free.to_string(), "given up after 3 attempt(s)"]);
    assert!(matches!(error, HubError::Unreachable { .. }));
    site.settings.endpoint = server.url.clone();
    site.settings.certificates = Some(site.dir.path().join("absent.pem"));
    site.refused(&["absent.pem: reading the certificates failed"]);
    fs::write(site.dir.path().join("absent.pem"), "not PEM").unwrap();
    site.refused(&["SSL_CERT_FILE", "certificates in PEM form"]);
}

#[test]
fn a_silent_server_is_not_waited_for_long() {
    let (server, mut site) = fresh();
    site.settings.answer_timeout = Duration::from_millis(300);
    server.fail("GET", "/api/", 9, Fault::Silent);
    site.refused(&["timeout", "given up after 3 attempt(s)"]);
}
