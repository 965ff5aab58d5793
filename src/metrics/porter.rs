//! Porter's stemmer with NLTK's extensions, which ROUGE's and METEOR's reference implementations use.
//!
//! # Source
//! Porter 1980, "An algorithm for suffix stripping"; the extensions are those of `nltk.stem.porter` in its default mode:
//! a table of irregular forms, `-ies` and `-ied` of short words, `y` after consonants only, `-alli`, `-fulli`, `-logi`.

/// Irregular forms and their stems.
const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Suffixes that fall or change where the stem before them has a measure above 0.
const STEP_2: &[(&str, &str)] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
];

const STEP_3: &[(&str, &str)] =
    &[("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

/// Suffixes that fall where the stem before them has a measure above 1; `ion` only after `s` or `t`.
const STEP_4: &[&str] = &[
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of an English word, in lower case. A word of one or two letters is its own stem.
///
/// ```
/// assert_eq!(firebrick::metrics::stem("Relational"), "relat");
/// assert_eq!(firebrick::metrics::stem("skies"), "sky");
/// ```
pub fn stem(word: &str) -> String {
    let lower = word.to_lowercase();
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == lower) {
        return (*stem).to_owned();
    }
    if word.chars().count() <= 2 {
        return lower;
    }
    let mut word = Word(lower.chars().collect());
    word.step_1a();
    word.step_1b();
    word.step_1c();
    word.step_2();
    word.step_3();
    word.step_4();
    word.step_5();
    word.0.into_iter().collect()
}

/// A word on its way to its stem.
struct Word(Vec<char>);

/// For each letter, whether it is a consonant: no vowel, nor a `y` after a consonant.
fn consonants(letters: &[char]) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(letters.len());
    for c in letters {
        let is = match c {
            'a' | 'e' | 'i' | 'o' | 'u' => false,
            'y' => flags.last().is_none_or(|&before| !before),
            _ => true,
        };
        flags.push(is);
    }
    flags
}

/// How often a consonant follows a vowel.
fn measure(letters: &[char]) -> usize {
    consonants(letters).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(letters: &[char]) -> bool {
    consonants(letters).contains(&false)
}

/// Porter's *o: consonant, vowel, consonant other than w, x, y; and NLTK's vowel, consonant.
fn ends_cvc(letters: &[char]) -> bool {
    match consonants(letters)[..] {
        [.., true, false, true] => !matches!(letters.last(), Some('w' | 'x' | 'y')),
        [false, true] => true,
        _ => false,
    }
}

fn ends_double_consonant(letters: &[char]) -> bool {
    match letters {
        [.., a, b] => a == b && consonants(letters).last() == Some(&true),
        _ => false,
    }
}

impl Word {
    /// What stands before `suffix`, where the word ends with it.
    fn before(&self, suffix: &str) -> Option<&[char]> {
        let length = self.0.len().checked_sub(suffix.chars().count())?;
        self.0[length..].iter().copied().eq(suffix.chars()).then_some(&self.0[..length])
    }

    fn become_stem(&mut self, length: usize, ending: &str) {
        self.0.truncate(length);
        self.0.extend(ending.chars());
    }

    fn step_1a(&mut self) {
        if self.0.len() == 4 && self.before("ies").is_some() {
            return self.become_stem(1, "ie");
        }
        for (suffix, ending) in [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")] {
            if let Some(length) = self.before(suffix).map(<[char]>::len) {
                return self.become_stem(length, ending);
            }
        }
    }

    fn step_1b(&mut self) {
        if let Some(length) = self.before("ied").map(<[char]>::len) {
            return self.become_stem(length, if length == 1 { "ie" } else { "i" });
        }
        if let Some((length, m)) = self.before("eed").map(|stem| (stem.len(), measure(stem))) {
            if m > 0 {
                self.become_stem(length, "ee");
            }
            return;
        }
        let stems = ["ed", "ing"].map(|suffix| self.before(suffix).filter(|stem| has_vowel(stem)).map(<[char]>::len));
        if let Some(length) = stems.into_iter().flatten().next() {
            self.0.truncate(length);
            self.repair();
        }
    }

    /// After `-ed` or `-ing` fell.
    fn repair(&mut self) {
        for (suffix, ending) in [("at", "ate"), ("bl", "ble"), ("iz", "ize")] {
            if let Some(length) = self.before(suffix).map(<[char]>::len) {
                return self.become_stem(length, ending);
            }
        }
        if ends_double_consonant(&self.0) {
            if !matches!(self.0.last(), Some('l' | 's' | 'z')) {
                self.0.pop();
            }
        } else if self.before("*d").is_some() {
            // NLTK writes the rule above as a suffix "*d", which a word may end with.
            let length = self.0.len() - 2;
            self.become_stem(length, "d");
        } else if measure(&self.0) == 1 && ends_cvc(&self.0) {
            self.0.push('e');
        }
    }

    fn step_1c(&mut self) {
        let after_consonant = |stem: &[char]| stem.len() > 1 && consonants(stem).last() == Some(&true);
        if let Some(length) = self.before("y").filter(|stem| after_consonant(stem)).map(<[char]>::len) {
            self.become_stem(length, "i");
        }
    }

    fn step_2(&mut self) {
        // `-alli` first, and what is left goes through this step again.
        while let Some(length) = self.before("alli").filter(|stem| measure(stem) > 0).map(<[char]>::len) {
            self.become_stem(length, "al");
        }
        for (suffix, ending) in STEP_2 {
            let Some(stem) = self.before(suffix) else { continue };
            // The l of `-logi` counts with the stem.
            let counted = if *suffix == "logi" { &self.0[..stem.len() + 1] } else { stem };
            let (length, falls) = (stem.len(), measure(counted) > 0);
            if falls {
                self.become_stem(length, ending);
            }
            return;
        }
    }

    fn step_3(&mut self) {
        for (suffix, ending) in STEP_3 {
            let Some((length, m)) = self.before(suffix).map(|stem| (stem.len(), measure(stem))) else { continue };
            if m > 0 {
                self.become_stem(length, ending);
            }
            return;
        }
    }

    fn step_4(&mut self) {
        for suffix in STEP_4 {
            let Some(stem) = self.before(suffix) else { continue };
            let fits = *suffix != "ion" || matches!(stem.last(), Some('s' | 't'));
            if fits && measure(stem) > 1 {
                let length = stem.len();
                self.0.truncate(length);
            }
            return;
        }
    }

    fn step_5(&mut self) {
        if let Some(stem) = self.before("e") {
            let m = measure(stem);
            if m > 1 || (m == 1 && !ends_cvc(stem)) {
                self.0.pop();
            }
        }
        if self.before("ll").is_some() && measure(&self.0[..self.0.len() - 1]) > 1 {
            self.0.pop();
        }
    }
}
