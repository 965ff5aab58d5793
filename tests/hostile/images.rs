//! Pictures.

use super::files::{copy, cut, fixture, png, record};
use super::program::{Work, check_taken};
use super::{Case, Program, check, check_with};
use std::fs;

/// These read pixels before anything is written; a dry run reads only what the header says.
const READERS: &[Program] = &[Program::Decode, Program::Score];

/// Writes a picture and one record that names it.
fn picture(work: &Work, name: &str, content: &[u8]) {
    fs::write(work.images().join(name), content).unwrap();
    fs::write(work.data(), format!("[\n{},\n{}\n]\n", record(None), record(Some(name)))).unwrap();
}

/// A picture of the fixtures under another name, cut to `part` thousandths of its length.
fn cut_picture(work: &Work, from: &str, part: usize) {
    let bytes = fs::read(fixture("image").join(from)).unwrap();
    picture(work, "bad.png", &bytes[..bytes.len() * part / 1000]);
}

/// A BMP header of 24 bits a pixel and no pixels.
fn bmp(width: i32, height: i32) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    bytes.extend([54u32, 0, 54, 40].map(u32::to_le_bytes).concat());
    bytes.extend([width, height].map(i32::to_le_bytes).concat());
    bytes.extend([1, 0, 24, 0]);
    bytes.resize(54, 0);
    bytes
}

/// A GIF header and nothing else.
fn gif(width: u16, height: u16) -> Vec<u8> {
    [b"GIF89a".as_slice(), &width.to_le_bytes(), &height.to_le_bytes(), &[0, 0, 0]].concat()
}

#[test]
fn pictures_that_are_broken() {
    check(
        READERS,
        &[
            Case {
                name: "empty",
                damage: |w| picture(w, "bad.png", b""),
                says: &["data.json:3", "image 1", "bad.png"],
            },
            Case {
                name: "text",
                damage: |w| picture(w, "bad.png", b"not a picture"),
                says: &["data.json:3", "bad.png"],
            },
            Case {
                name: "a signature alone",
                damage: |w| picture(w, "bad.png", b"\x89PNG\r\n\x1a\n"),
                says: &["data.json:3", "bad.png"],
            },
            Case {
                name: "a cut PNG",
                damage: |w| cut_picture(w, "rgb_97x61.png", 500),
                says: &["data.json:3", "bad.png"],
            },
            Case { name: "a cut JPEG", damage: |w| cut_picture(w, "444.jpg", 500), says: &["data.json:3", "bad.png"] },
            Case {
                name: "a cut progressive JPEG",
                damage: |w| cut_picture(w, "progressive.jpg", 400),
                says: &["data.json:3", "bad.png"],
            },
            Case {
                name: "the start of a JPEG",
                damage: |w| picture(w, "bad.jpg", b"\xff\xd8\xff\xe0"),
                says: &["data.json:3", "bad.jpg"],
            },
            Case {
                name: "no width",
                damage: |w| picture(w, "bad.png", &png(0, 9, b"")),
                says: &["data.json:3", "bad.png"],
            },
            Case {
                name: "no pixels",
                damage: |w| picture(w, "bad.png", &png(9, 9, b"")),
                says: &["data.json:3", "bad.png"],
            },
            Case {
                name: "pixels of rubbish",
                damage: |w| picture(w, "bad.png", &png(9, 9, &[0x78, 0x9c, 255, 255, 255])),
                says: &["data.json:3", "bad.png"],
            },
            Case {
                name: "a GIF without a frame",
                damage: |w| picture(w, "bad.gif", &gif(9, 9)),
                says: &["data.json:3", "bad.gif"],
            },
            Case {
                name: "a WebP of nothing",
                damage: |w| picture(w, "bad.webp", b"RIFF\xff\xff\xff\x7fWEBPVP8L"),
                says: &["data.json:3", "bad.webp"],
            },
            Case {
                name: "a format that is not read",
                damage: |w| picture(w, "bad.tiff", b"II*\0\x08\0\0\0"),
                says: &["data.json:3", "bad.tiff"],
            },
            Case {
                name: "a drawing",
                damage: |w| picture(w, "bad.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
                says: &["data.json:3", "bad.svg"],
            },
        ],
    );
}

#[test]
fn pictures_that_unfold() {
    // Both the header alone and the pixels: none of them may take the memory that the header announces.
    check(
        &[Program::DryRun, Program::Train, Program::Score],
        &[
            Case {
                name: "60,000 by 60,000",
                damage: |w| picture(w, "bomb.png", &png(60_000, 60_000, &[0; 1000])),
                says: &["data.json:3", "bomb.png", "60000x60000"],
            },
            Case {
                name: "as many as a number holds",
                damage: |w| picture(w, "bomb.png", &png(0x7FFF_FFFF, 0x7FFF_FFFF, b"")),
                says: &["data.json:3", "bomb.png"],
            },
            Case {
                name: "a stripe",
                damage: |w| picture(w, "bomb.png", &png(100_000_000, 1, &[0; 100])),
                says: &["data.json:3", "bomb.png", "100000000x1"],
            },
            Case {
                name: "more than its bytes can hold",
                damage: |w| picture(w, "bomb.png", &png(13_000, 13_000, &[0; 1000])),
                says: &["data.json:3", "bomb.png", "13000x13000"],
            },
            Case {
                name: "a bitmap",
                damage: |w| picture(w, "bomb.bmp", &bmp(60_000, 60_000)),
                says: &["data.json:3", "bomb.bmp", "60000x60000"],
            },
        ],
    );
    check(
        READERS,
        &[
            Case {
                name: "a smaller bitmap without pixels",
                damage: |w| picture(w, "bomb.bmp", &bmp(13_000, 13_000)),
                says: &["data.json:3", "bomb.bmp"],
            },
            Case {
                name: "a GIF without pixels",
                damage: |w| picture(w, "bomb.gif", &gif(13_000, 13_000)),
                says: &["data.json:3", "bomb.gif"],
            },
        ],
    );
}

#[test]
fn decoding_before_training_finds_what_headers_hide() {
    let cut = Case { name: "cut", damage: |w| cut_picture(w, "rgb_97x61.png", 500), says: &["data.json:3", "bad.png"] };
    check_with(Program::DryRun, &["--decode"], &[cut]);
}

#[test]
fn odd_pictures_are_taken() {
    fn odd(work: &Work, from: &str, name: &str) {
        picture(work, name, &fs::read(fixture("image").join(from)).unwrap());
    }
    check_taken(
        READERS,
        &[
            Case { name: "16 bits", damage: |w| odd(w, "rgba16.png", "a.png"), says: &[] },
            Case { name: "a palette", damage: |w| odd(w, "palette.png", "a.png"), says: &[] },
            Case { name: "CMYK", damage: |w| odd(w, "cmyk.jpg", "a.jpg"), says: &[] },
            Case { name: "one pixel", damage: |w| odd(w, "rgb_1x1.png", "a.png"), says: &[] },
            Case { name: "a JPEG that is called PNG", damage: |w| odd(w, "420.jpg", "a.png"), says: &[] },
            Case { name: "a PNG without an ending", damage: |w| odd(w, "rgb_3x2.png", "picture"), says: &[] },
        ],
    );
}

#[test]
fn a_picture_for_a_chat() {
    check(
        &[Program::Chat],
        &[
            Case { name: "cut", damage: |w| cut(&w.images().join("ridge.png"), 60), says: &["ridge.png"] },
            Case {
                name: "not there",
                damage: |w| fs::remove_file(w.images().join("ridge.png")).unwrap(),
                says: &["ridge.png"],
            },
            Case {
                name: "a bomb",
                damage: |w| fs::write(w.images().join("ridge.png"), png(60_000, 60_000, &[0; 99])).unwrap(),
                says: &["ridge.png", "60000x60000"],
            },
            Case {
                name: "a folder",
                damage: |w| {
                    fs::remove_file(w.images().join("ridge.png")).unwrap();
                    copy(&w.adapter(), &w.images().join("ridge.png"));
                },
                says: &["ridge.png"],
            },
        ],
    );
}
