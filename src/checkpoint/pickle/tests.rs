//! Files that torch wrote, held to torch's values; files that must be refused; files by hand; and
//! files at random. `tests/parity/gen/pickles.py` makes the fixtures.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::super::tensors::byte_len;
use super::*;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickle").join(folder)
}

/// How many sound files there are.
const SOUND: usize = 11;

/// The sound files: names and bytes.
fn sound() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(fixtures("sound"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension != "safetensors"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert_eq!(files.len(), SOUND);
    files
}

fn bytes<'a>(file: &'a [u8], tensor: &'a StoredTensor) -> &'a [u8] {
    match &tensor.bytes {
        StoredBytes::Mapped(range) => &file[range.clone()],
        StoredBytes::Copied(bytes) => bytes,
    }
}

/// Whether `file` is refused with `needle`.
fn refused(file: &[u8], needle: &str) {
    let error = read(file).expect_err(needle).to_string();
    assert!(error.contains(needle), "{error:?} lacks {needle:?}");
}

#[test]
fn every_tensor_has_torchs_name_type_shape_and_bytes() {
    for (name, file) in sound() {
        let contents = read(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = fs::read(fixtures("sound").join(format!("{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&expected).unwrap();
        let order = header.metadata().as_ref().unwrap()["names"].clone();
        let order: Vec<String> = serde_json::from_str(&order).unwrap();
        assert_eq!(contents.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>(), order, "{name}");
        let expected = SafeTensors::deserialize(&expected).unwrap();
        for tensor in &contents.tensors {
            let wanted = expected.tensor(&tensor.name).unwrap();
            assert_eq!((tensor.dtype, &*tensor.shape), (wanted.dtype(), wanted.shape()), "{name}: {}", tensor.name);
            assert_eq!(bytes(&file, tensor), wanted.data(), "{name}: {}", tensor.name);
        }
    }
}

#[test]
fn only_what_lies_in_another_order_is_copied_and_tied_weights_share_bytes() {
    for name in ["every.pt", "every_protocol5.pt", "every_older.pth"] {
        let tensors = read(&fs::read(fixtures("sound").join(name)).unwrap()).unwrap().tensors;
        let copied: Vec<_> = tensors
            .iter()
            .filter(|tensor| matches!(tensor.bytes, StoredBytes::Copied(_)))
            .map(|tensor| tensor.name.as_str())
            .collect();
        let expected = ["transposed", "columns", "permuted", "repeated", "one_row_of_transposed"];
        assert_eq!(copied, expected, "{name}");
        let find = |name| &tensors.iter().find(|tensor| tensor.name == name).unwrap().bytes;
        assert_eq!(find("tied.embed.weight"), find("tied.head.weight"));
    }
}

#[test]
fn a_training_checkpoint_gives_its_state_dict_and_names_the_rest() {
    let read = |name| read(&fs::read(fixtures("sound").join(name)).unwrap()).unwrap();
    let training = read("training.pt");
    assert_eq!(training.tensors[0].name, "module.embed.weight");
    assert_eq!(training.beside, ["epoch", "best", "optimizer", "rng_state", "notes"]);
    let nested = read("nested.pt");
    let names: Vec<_> = nested.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!((names, nested.beside), (vec!["encoder.w", "layers.0", "layers.1.b"], vec!["step".to_owned()]));
}

#[test]
fn hostile_files_are_refused_by_name() {
    let words = fs::read_to_string(fixtures("hostile.json")).unwrap();
    let words: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&words).unwrap();
    assert_eq!(words.len(), fs::read_dir(fixtures("hostile")).unwrap().count());
    for (name, needle) in words {
        let file = fs::read(fixtures("hostile").join(&name)).unwrap();
        let error = read(&file).expect_err(&name).to_string();
        assert!(error.contains(needle.as_str().unwrap()), "{name}: {error:?} lacks {needle}");
    }
    assert!(!Path::new("the-pickle-ran").exists());
}

#[test]
fn a_refusal_says_the_name_the_place_and_what_to_do() {
    let file = fs::read(fixtures("hostile/system.pt")).unwrap();
    let at = file.windows(14).position(|window| window == b"cposix\nsystem\n").unwrap();
    refused(&file, &format!("byte {at}: the pickle asks for `posix.system`, "));
    refused(&file, "nothing of the file was run");
    refused(&file, "weights_only=True");
}

#[test]
fn every_truncation_is_refused() {
    for (name, file) in sound() {
        for len in 0..file.len() {
            assert!(read(&file[..len]).is_err(), "{name} cut to {len} of {}", file.len());
        }
        let longer = [&file[..], b"x"].concat();
        assert!(read(&longer).is_err(), "{name} with a byte more");
    }
}

/// The older layout's magic number, version and system.
const START: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

/// A file of the older layout with this pickle and one storage `0` of 6 floats.
fn older(pickle: &[u8]) -> Vec<u8> {
    let floats: Vec<u8> = (0..6).flat_map(|value| (value as f32).to_le_bytes()).collect();
    [START, pickle, b"\x80\x02](X\x01\0\0\x000e.\x06\0\0\0\0\0\0\0", &floats].concat()
}

/// A file of the older layout with this pickle and no storage.
fn bare(pickle: &[u8]) -> Vec<u8> {
    [START, pickle, b"\x80\x02]."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn integer(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

fn integers(values: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|&value| integer(value)).collect(), b"t".to_vec()].concat()
}

fn storage(len: i64) -> Vec<u8> {
    let named = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu")].concat();
    [b"(".to_vec(), named, integer(len), b"NtQ".to_vec()].concat()
}

fn tensor(storage: &[u8], offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let start = b"ctorch._utils\n_rebuild_tensor_v2\n(";
    [&start[..], storage, &integer(offset), &integers(size), &integers(stride), b"\x89NtR"].concat()
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [&b"\x80\x02}("[..], &entries, b"u."].concat()
}

fn one(offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    older(&dict(&[("w", tensor(&storage(6), offset, size, stride))]))
}

#[test]
fn sizes_and_strides_are_distrusted() {
    let values = |file: &[u8]| {
        let contents = read(file).unwrap();
        let bytes = bytes(file, &contents.tensors[0]).to_vec();
        bytes.chunks(4).map(|float| f32::from_le_bytes(float.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(values(&one(0, &[2, 3], &[3, 1])), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(values(&one(0, &[3, 2], &[1, 3])), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(values(&one(5, &[], &[])), [5.0]);
    assert_eq!(values(&one(1, &[2, 2], &[0, 2])), [1.0, 3.0, 1.0, 3.0]);
    assert_eq!(values(&one(4, &[1, 2, 1], &[i64::MAX, 1, 7])), [4.0, 5.0]);
    assert!(values(&one(9, &[0, 4], &[4, 1])).is_empty());
    refused(
        &one(1, &[2, 3], &[3, 1]),
        "tensor `w` of shape [2, 3], strides [3, 1] and offset 1 reaches past its storage",
    );
    refused(&one(0, &[2], &[i64::MAX]), "reaches past its storage of 6 elements");
    refused(&one(0, &[3, 3], &[i64::MAX, i64::MAX]), "reaches past");
    refused(&one(i64::MAX, &[2], &[1]), "reaches past");
    refused(&one(-1, &[2], &[1]), "begins at element -1");
    refused(&one(0, &[-2], &[1]), "has the size -2");
    refused(&one(0, &[2], &[-1]), "has the stride -1");
    refused(&one(0, &[2], &[]), "has 1 sizes and 0 strides");
    refused(&one(0, &[1 << 40, 1 << 40], &[1, 1]), "impossible shape");
    refused(&one(0, &[i64::MAX], &[0]), "impossible shape");
    refused(&one(0, &[1 << 50], &[0]), "repeats elements");
    refused(&one(0, &[1; 65], &[1; 65]), "65 dimensions");
    for len in [5, 7, -1, 1 << 62, i64::MAX] {
        let file = older(&dict(&[("w", tensor(&storage(len), 0, &[1], &[1]))]));
        refused(&file, if len < 0 { "a storage has -1 elements" } else { "for which the file has 24 bytes" });
    }
}

#[test]
fn lengths_depths_and_indices_are_distrusted() {
    for (pickle, needle) in [
        (&b"\x80\x02\x8d\0\0\0\0\0\0\0\x10."[..], "a string claims 1152921504606846976 bytes"),
        (b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "bytes claims 18446744073709551615 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "an integer claims 2147483647 bytes"),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\x40N.", "the frame claims"),
        (b"\x80\x02X\xff\xff\xff\xff.", "a string claims 4294967295 bytes"),
        (b"\x80\x02T\xff\xff\xff\xff.", "a string claims 4294967295 bytes"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "it writes entry 4294967295 of the memo after 8 bytes"),
        (b"\x80\x02j\xff\xff\xff\xff.", "it reads entry 4294967295 of the memo, which was not written"),
        (b"\x80\x02h\x03.", "it reads entry 3 of the memo"),
        (b"\x80\x02q\x00.", "empty stack"),
        (b"\x80\x02t.", "there is no mark"),
        (b"\x80\x02N(N\x86.", "empty stack"),
        (b"\x80\x02N(R.", "empty stack"),
        (b"\x80\x02}(Nu.", "a key without a value"),
        (b"\x80\x02](NNu.", "puts values into a list by the wrong instruction"),
        (b"\x80\x02N(NNu.", "puts values into None"),
        (b"\x80\x02]Nb.", "it sets attributes of a list"),
        (b"\x80\x02N)R.", "it calls None"),
        (b"\x80\x02ctorch\nSize\nNR.", "calls a function with None, expected a tuple"),
        (b"\x80\x02ctorch\nTensor\n)R.", "arguments that torch does not give it"),
        (b"\x80\x02ctorch\nTensor\n)\x81.", "the instruction NEWOBJ makes an object of a class"),
        (b"\x80\x02ctorch\n\xff\n.", "a name is not UTF-8"),
        (b"\x80\x02X\x01\0\0\0\xff.", "a string is not UTF-8"),
        (b"\x80\x02\x82\x01.", "the running program's registry"),
        (b"\x80\x02(ios\nsystem\n.", "the instruction INST calls a class"),
        (b"\x80\x02I1\n.", "the instruction INT belongs to protocol 0"),
        (b"\x80\x02\x07.", "0x07 is no instruction"),
        (b"\x80\x01N.", "pickle protocol 1, expected 2 to 5"),
        (b"\x80\x04N\x8c\x06system\x93.", "it names a function by None and a string"),
        (b"\x80\x02X\x06\0\0\0moduleNN\x87Q.", "a whole module and its code"),
        (b"\x80\x02K\x01Q.", "a storage is named by an integer"),
    ] {
        refused(&older(pickle), needle);
    }
    refused(
        &older(&[&b"\x80\x02"[..], &vec![b'N'; (1 << 20) + 1]].concat()),
        "more than 1048576 values are on the stack",
    );
    refused(&older(&[&b"\x80\x02"[..], &b"]0".repeat((1 << 20) + 1)].concat()), "makes more than 1048576 objects");
    refused(&older(&[&b"\x80\x02"[..], &vec![b'('; input::MAX_PICKLE]].concat()), "longer than the 16777216 bytes");
}

#[test]
fn nesting_and_aliases_are_bounded() {
    let deep = [&b"\x80\x02"[..], &b"}X\x01\0\0\0a".repeat(5000), b"N", &b"s".repeat(5000), b"."].concat();
    refused(&bare(&deep), "nested deeper than 32");
    let tuples = [&b"\x80\x02}X\x01\0\0\0aN"[..], &b"\x85".repeat(100_000), b"s."].concat();
    refused(&bare(&tuples), "nested deeper than 32");
    // A list in itself, and a dict in itself through the memo.
    refused(&bare(b"\x80\x02]q\x00h\x00a."), "the file holds a list");
    refused(&bare(b"\x80\x02}q\x00X\x01\0\0\0ah\x00s."), "nested deeper than 32");
    // 2^30 ways through 30 lists.
    let laughs = [&b"\x80\x02}X\x01\0\0\0a]N\x61"[..], &b"q\x000]h\x00ah\x00a".repeat(28), b"s."].concat();
    refused(&bare(&laughs), "repeated more often");
    // A list of pairs that Python 2 would make a dict of, again and again.
    let pairs = [
        &b"\x80\x02]("[..],
        &b"NN\x86".repeat(1000),
        b"eq\x00",
        &b"ccollections\nOrderedDict\nh\x00\x85R0".repeat(400),
        b".",
    ]
    .concat();
    refused(&older(&pairs), "copies the same values again and again");
    let weight = tensor(&storage(6), 0, &[6], &[1]);
    refused(&older(&dict(&[("w", weight.clone()), ("w", weight)])), "the tensor `w` occurs twice");
}

#[test]
fn python2s_files_are_read() {
    // Names as SHORT_BINSTRING, and the ordered dict's entries as an argument: a list of lists.
    let weight = tensor(&storage(6), 0, &[6], &[1]);
    let pickle = [&b"\x80\x02ccollections\nOrderedDict\n](](U\x08features"[..], &weight, b"ee\x85R."].concat();
    let contents = read(&older(&pickle)).unwrap();
    assert_eq!((contents.tensors[0].name.as_str(), &*contents.tensors[0].shape), ("features", &[6][..]));
}

#[test]
fn what_a_message_shows_of_a_file_is_plain_and_short() {
    let name = "\x1b[2J".repeat(100);
    let pickle = [b"\x80\x02cos\n", name.as_bytes(), b"\n."].concat();
    let error = read(&older(&pickle)).unwrap_err().to_string();
    assert!(error.contains("`os.\\u{1b}[2J") && !error.contains('\x1b') && error.len() < 2500, "{error}");
}

/// What every outcome must satisfy: tensors inside the file, as long as type and shape need, and
/// copies no larger than the file.
fn hold(file: &[u8]) {
    let Ok(contents) = read(file) else { return };
    let mut copied = 0;
    for tensor in &contents.tensors {
        assert_eq!(byte_len(tensor.dtype, &tensor.shape), Some(bytes(file, tensor).len()));
        copied += if let StoredBytes::Copied(bytes) = &tensor.bytes { bytes.len() } else { 0 };
    }
    assert!(copied <= file.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files_never_panic(
        which in 0..SOUND,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        region in 0usize..3,
    ) {
        let mut file = sound().swap_remove(which).1;
        // Most of a file is padding and values: two thirds of the cases stay in the first pickles,
        // or in the archive's directory.
        let reach = if region == 0 { file.len() } else { file.len().min(2500) };
        let base = if region == 2 { file.len() - reach } else { 0 };
        for (at, byte) in flips {
            file[base + at.index(reach)] = byte;
        }
        hold(&file);
    }

    #[test]
    fn spliced_files_never_panic(
        which in 0..SOUND, from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), len in 0usize..200
    ) {
        let file = sound().swap_remove(which).1;
        let (from, to) = (from.index(file.len()), to.index(file.len()));
        let piece = &file[from..(from + len).min(file.len())];
        hold(&[&file[..to], piece, &file[to..]].concat());
    }

    #[test]
    fn random_programs_never_panic(
        steps in prop::collection::vec((0usize..PIECES.len(), any::<u8>()), 0..60)
    ) {
        let mut pickle = b"\x80\x02".to_vec();
        for (piece, byte) in steps {
            pickle.extend_from_slice(PIECES[piece]);
            if PIECES[piece].ends_with(b"q") || PIECES[piece].ends_with(b"h") {
                pickle.push(byte % 8);
            }
        }
        pickle.push(b'.');
        hold(&older(&pickle));
    }

    #[test]
    fn random_layouts_are_read_as_torch_reads_them(
        sides in prop::collection::vec((0i64..4, 0i64..4), 0..4), offset in 0i64..6
    ) {
        let (size, stride): (Vec<i64>, Vec<i64>) = sides.iter().copied().unzip();
        let file = one(offset, &size, &stride);
        // Every index of the shape, row-major, to its element.
        let mut places = vec![offset];
        for (&side, &step) in size.iter().zip(&stride) {
            places = places.iter().flat_map(|&at| (0..side).map(move |i| at + i * step)).collect();
        }
        match read(&file) {
            Ok(contents) => {
                let expected: Vec<u8> = places.iter().flat_map(|&at| (at as f32).to_le_bytes()).collect();
                prop_assert_eq!(bytes(&file, &contents.tensors[0]), expected);
            }
            Err(_) => prop_assert!(places.iter().any(|&at| at >= 6) || places.len() * 4 > file.len()),
        }
    }
}

/// Instructions from which random programs are made.
const PIECES: [&[u8]; 34] = [
    b"(",
    b"0",
    b"1",
    b"2",
    b")",
    b"]",
    b"}",
    b"\x8f",
    b"N",
    b"\x88",
    b"K\x01",
    b"K\x06",
    b"X\x01\0\0\x000",
    b"X\x07\0\0\0storage",
    b"X\x03\0\0\0cpu",
    b"a",
    b"e",
    b"s",
    b"u",
    b"b",
    b"R",
    b"Q",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"q",
    b"h",
    b"\x94",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nSize\n",
    b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06NtQ",
];
