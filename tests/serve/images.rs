//! Pictures: where they may come from, and what is refused before it is decoded.

use std::fs;
use std::io::{Cursor, Write};

use super::*;
use base64::Engine as _;
use firebrick::serve::Limits;

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut sum = u32::MAX;
    for byte in name.iter().chain(data) {
        sum ^= u32::from(*byte);
        (0..8).for_each(|_| sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()));
    }
    [&(data.len() as u32).to_be_bytes(), &name[..], data, &(!sum).to_be_bytes()].concat()
}

/// A PNG file whose header announces these pixels, with further chunks behind it.
fn announced(width: u32, height: u32, more: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &header)[..], more, &chunk(b"IDAT", &[0; 40_000]), &chunk(b"IEND", &[])]
        .concat()
}

fn data_url(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn showing(urls: &[&str]) -> Value {
    let parts: Vec<Value> = urls.iter().map(|url| json!({"type": "image_url", "image_url": {"url": url}})).collect();
    json!({"messages": [{"role": "user", "content": parts}]})
}

fn said(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn pictures_in_the_request_are_passed_on() {
    let server = Running::new();
    let bytes = png(3, 2);
    let url = data_url(&bytes);
    let unpadded = url.trim_end_matches('=').to_owned();
    let answer = server.post("/v1/chat/completions", &showing(&[&url, &unpadded]));
    assert_eq!(said(&answer), format!("You said:  (2 pictures of {} bytes)", bytes.len() * 2));
}

#[cfg(unix)]
#[test]
fn files_are_read_under_their_folder_only() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.png"), png(1, 1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("images");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(dir.path().join("beside.png"), png(1, 1)).unwrap();
    fs::write(root.join("sub/a b.png"), png(1, 1)).unwrap();
    fs::write(root.join("words.txt"), "no picture").unwrap();
    symlink("sub/a b.png", root.join("inside.png")).unwrap();
    symlink(outside.path().join("secret.png"), root.join("outside.png")).unwrap();
    symlink(outside.path(), root.join("folder")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe.png"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let settings = ServeSettings { images_root: Some(root.clone()), ..ServeSettings::default() };
    let server = Running::with(settings, Echo::default());
    let absolute = root.join("sub/a b.png").display().to_string();
    for good in ["sub/a b.png", "sub/../sub/./a b.png", "inside.png", &absolute, &format!("file://{absolute}")] {
        assert!(said(&server.post("/v1/chat/completions", &showing(&[good]))).contains("(1 pictures of "), "{good}");
    }
    let foreign = outside.path().join("secret.png").display().to_string();
    for bad in [
        "../beside.png",
        "sub/../../beside.png",
        "outside.png",
        "folder/secret.png",
        "missing.png",
        "pipe.png",
        "sub",
        "",
        ".",
        "a\u{0}b.png",
        &foreign,
        &format!("file://{foreign}"),
        "file:///dev/zero",
        "/proc/self/environ",
        "sub%2f..%2f..%2fbeside.png",
    ] {
        let answer = server.post("/v1/chat/completions", &showing(&[bad]));
        let expected =
            "`messages[0].content[0].image_url`: there is no such picture under the server's folder for images";
        assert_eq!((answer.status, answer.error().as_str()), (400, expected), "{bad}");
    }
    let words = server.post("/v1/chat/completions", &showing(&["words.txt"])).error();
    assert!(words.contains("not a PNG, JPEG"), "{words}");
    server.is_well();
}

#[test]
fn nothing_is_fetched_and_without_a_folder_nothing_is_read() {
    let server = Running::new();
    for (url, expected) in [
        ("https://example.com/a.png", "pictures are not fetched"),
        ("http://127.0.0.1:1/a.png", "pictures are not fetched"),
        ("ftp://host/a.png", "pictures are not fetched"),
        ("file:///etc/hostname", "files are not read"),
        ("/etc/hostname", "files are not read"),
        ("a.png", "files are not read"),
        ("data:image/png,abc", "a data URL must be"),
        ("data:image/png;base64", "a data URL must be"),
        ("data:text/html;base64,AAAA", "type is not image/"),
        ("data:image/png;base64,!!!!", "not base64"),
        ("data:image/png;base64,", "the file is empty"),
        ("data:image/png;base64,AAAA", "not a PNG, JPEG"),
    ] {
        let answer = server.post("/v1/chat/completions", &showing(&[url]));
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains(expected), "{url}: {}", answer.error());
        assert_eq!(answer.json()["error"]["param"], "messages[0].content[0].image_url");
    }
    server.is_well();
}

#[test]
fn bombs_are_refused_by_their_headers() {
    let limits = Limits { pixels: 1_000_000, images: 3, image_bytes: 1 << 20, ..Limits::default() };
    let server = Running::with(ServeSettings { limits, ..ServeSettings::default() }, Echo::default());
    let big = data_url(&announced(5_000, 4_000, &[]));
    let huge = data_url(&announced(30_000, 30_000, &[]));
    let half = data_url(&png(1000, 600));
    let long = format!("data:image/png;base64,{}", "A".repeat(3 << 20));
    for (urls, expected) in [
        (vec![&big], "with 5000x4000 pixels the request has more than 1000000"),
        (vec![&huge], "the header announces 30000x30000 pixels"),
        (vec![&half, &half], "with 1000x600 pixels the request has more than 1000000"),
        (vec![&long], "the picture's file is longer than 1048576 bytes"),
    ] {
        let urls: Vec<&str> = urls.into_iter().map(String::as_str).collect();
        let answer = server.post("/v1/chat/completions", &showing(&urls));
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains(expected), "{}", answer.error());
    }
    let small = data_url(&png(1, 1));
    let answer = server.post("/v1/chat/completions", &showing(&[&small, &small, &small, &small]));
    assert!(answer.error().contains("a request may have 3 pictures"), "{}", answer.error());
    server.is_well();
}

/// A colour profile that a decoder would unpack to 64 MiB is not even passed on.
#[test]
fn compressed_profiles_are_left_out() {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![0; 64 << 20]).unwrap();
    let profile = [b"x\0\0", &packed.finish().unwrap()[..]].concat();
    let bytes = announced(10, 10, &chunk(b"iCCP", &profile));
    let server = Running::new();
    let answer = server.post("/v1/chat/completions", &showing(&[&data_url(&bytes)]));
    assert!(bytes.len() > 60_000);
    assert_eq!(said(&answer), format!("You said:  (1 pictures of {} bytes)", announced(10, 10, &[]).len()));
    let cut = server.post("/v1/chat/completions", &showing(&[&data_url(&bytes[..20])]));
    assert!(cut.error().contains("cut short before its header ends"), "{}", cut.error());
}
