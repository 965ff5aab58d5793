//! The scripts in `clients/` drive real clients and a real browser; they need a server over the [`Echo`] backend, which is
//! this one: see `clients/README.md`.

use super::*;

/// Stays up for the scripts where `FIREBRICK_ECHO_PORT` is set, for `FIREBRICK_ECHO_SECONDS`; otherwise for one request.
#[test]
fn echo_server() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u16>().expect(name));
    let port = number("FIREBRICK_ECHO_PORT");
    let images = tempfile::tempdir().unwrap();
    let settings = ServeSettings {
        address: SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(0))),
        images_root: Some(images.path().into()),
        ..ServeSettings::default()
    };
    let echo = Echo::slow(Duration::from_millis(if port.is_some() { 10 } else { 0 }));
    let server = Server::bind(settings, Arc::new(echo)).unwrap();
    let (address, handle) = (server.address(), server.handle());
    let thread = std::thread::spawn(move || server.run());
    assert_eq!(Open::send(address, &get("/health", "")).answer().unwrap().status, 200);
    if port.is_some() {
        std::thread::sleep(Duration::from_secs(number("FIREBRICK_ECHO_SECONDS").unwrap_or(600).into()));
    }
    handle.shut_down();
    thread.join().unwrap().unwrap();
}
