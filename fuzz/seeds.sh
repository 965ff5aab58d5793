#!/bin/sh
# Makes corpus/TARGET/ out of the committed fixtures. Files that libFuzzer has found since stay.
set -eu
cd "$(dirname "$0")"
fixtures=../tests/fixtures
mkdir -p corpus/safetensors_index corpus/records corpus/pickle

for file in "$fixtures"/pickle/sound/* "$fixtures"/pickle/hostile/*; do
    case "$file" in
    *.safetensors)
        # 47 bytes of index, the length first.
        name=$(basename "$file")
        { printf '\057\000{"weight_map": {"a.weight": "a.safetensors"}}  '; cat "$file"; } >"corpus/safetensors_index/$name"
        ;;
    *) cp "$file" corpus/pickle/ ;;
    esac
done

for file in "$fixtures"/parity/records/*.json; do
    case "$file" in
    */tokenizer.json) continue ;;
    esac
    name=$(basename "$file" .json)
    # An even first byte is for .json, an odd one for .jsonl.
    { printf '0'; cat "$file"; } >"corpus/records/$name.json"
    { printf '1'; tr -d '\n' <"$file" | sed -e 's/^\[//' -e 's/\]$//'; } >"corpus/records/$name.jsonl"
done
{ printf '1'; cat "$fixtures"/data/kinds.jsonl; } >corpus/records/kinds.jsonl
