//! `preprocessor_config.json` and `processor_config.json`, as transformers 4 and 5 write them.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ImageError;
use super::processor::{AspectRatio, ImageProcessor, ResizeTo};
use super::resize::Filter;

/// The classes whose arithmetic [`ImageProcessor`] implements, by every name transformers gave them.
const CLASSES: [&str; 7] = [
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
    "CLIPFeatureExtractor",
    "LlavaImageProcessor",
    "LlavaImageProcessorFast",
    "LlavaImageProcessorPil",
];

/// Keys that say nothing about the pixels of a single RGB picture.
const INERT: [&str; 16] = [
    "_valid_processor_keys",
    "processor_class",
    "auto_map",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "image_seq_length",
    "model_input_names",
    "patch_size",
    "vision_feature_select_strategy",
    "num_additional_image_tokens",
    "transformers_version",
    "_processor_class",
];

/// Largest accepted side of a target size: far above any encoder, far below what would exhaust memory.
const MAX_SIDE: u64 = 16_384;

impl ImageProcessor {
    /// The processor of a checkpoint folder: `image_processor` in `processor_config.json` where there is one
    /// (transformers 5), else `preprocessor_config.json`. Missing keys take `CLIPImageProcessor`'s defaults.
    ///
    /// # Errors
    /// [`ImageError::Config`] with the file and the key: no file, malformed JSON, another processor class, a resampling
    /// filter other than bilinear and bicubic, a result without a fixed size, or a key that would change the pixels and is
    /// not implemented.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, ImageError> {
        let dir = dir.as_ref();
        let nested = dir.join("processor_config.json");
        if nested.is_file()
            && let Some(Value::Object(config)) = read_json(&nested)?.remove("image_processor")
        {
            return Reader { path: &nested, config: &config }.processor();
        }
        let flat = dir.join("preprocessor_config.json");
        if flat.is_file() {
            return Reader { path: &flat, config: &read_json(&flat)? }.processor();
        }
        Err(ImageError::config(
            dir,
            "no preprocessor_config.json and no processor_config.json with `image_processor`; copy it from the \
             checkpoint's origin, it says how pictures are resized and normalised",
        ))
    }

    /// The settings as `CLIPImageProcessor.from_pretrained` of transformers 4 and 5 reads them (`LlavaImageProcessor` where
    /// pictures are padded, because CLIP's does not pad).
    pub fn to_json(&self) -> Value {
        let class = match self.aspect_ratio {
            AspectRatio::Crop => "CLIPImageProcessor",
            AspectRatio::Pad => "LlavaImageProcessor",
        };
        let size = |height: usize, width: usize| json!({ "height": height, "width": width });
        let (to, filter) = self.resize.unwrap_or((ResizeTo::ShortestEdge(224), Filter::Bicubic));
        let (crop_height, crop_width) = self.crop.unwrap_or_else(|| self.crop_size());
        let (mean, std) = self.normalize.unwrap_or((self.pad_mean, [1.0; 3]));
        let mut config = json!({
            "crop_size": size(crop_height, crop_width),
            "do_center_crop": self.crop.is_some(),
            "do_convert_rgb": true,
            "do_normalize": self.normalize.is_some(),
            "do_rescale": self.rescale.is_some(),
            "do_resize": self.resize.is_some(),
            "image_mean": mean,
            "image_processor_type": class,
            "image_std": std,
            "resample": match filter { Filter::Bilinear => 2, Filter::Bicubic => 3 },
            "rescale_factor": self.rescale.unwrap_or(1.0 / 255.0),
            "size": match to {
                ResizeTo::ShortestEdge(edge) => json!({ "shortest_edge": edge }),
                ResizeTo::Exact { height, width } => size(height, width),
            },
        });
        if self.aspect_ratio == AspectRatio::Pad {
            config["do_pad"] = true.into();
        }
        config
    }
}

fn read_json(path: &Path) -> Result<Map<String, Value>, ImageError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ImageError::config(path, format!("cannot be read: {source}")))?;
    serde_json::from_str(&text).map_err(|error| ImageError::config(path, format!("not a JSON object: {error}")))
}

/// One configuration and the file to name in errors.
struct Reader<'a> {
    path: &'a Path,
    config: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn processor(&self) -> Result<ImageProcessor, ImageError> {
        let class = self.class()?;
        self.refuse_unknown()?;
        let clip = ImageProcessor::clip(224);
        let (mean, std) = match clip.normalize {
            Some((mean, std)) => (self.channels("image_mean", mean)?, self.channels("image_std", std)?),
            None => unreachable!("CLIP normalises"),
        };
        let processor = ImageProcessor {
            aspect_ratio: self.aspect_ratio(class)?,
            resize: if self.flag("do_resize")? { Some((self.size()?, self.filter()?)) } else { None },
            crop: if self.flag("do_center_crop")? { Some(self.crop_size()?) } else { None },
            rescale: if self.flag("do_rescale")? { Some(self.rescale_factor()?) } else { None },
            normalize: self.flag("do_normalize")?.then_some((mean, std)),
            pad_mean: mean,
        };
        let fixed = processor.crop.is_some() || matches!(processor.resize, Some((ResizeTo::Exact { .. }, _)));
        if !fixed {
            return Err(self.error(
                "do_center_crop",
                "without a centre crop or a `size` of height and width, pictures come out in different sizes, which no \
                 batch can hold; set `do_center_crop` to true",
            ));
        }
        if let Some(channel) = std.iter().position(|&s| s == 0.0) {
            return Err(self.error("image_std", &format!("channel {channel} is 0, which divides by zero")));
        }
        Ok(processor)
    }

    fn class(&self) -> Result<&str, ImageError> {
        let key = ["image_processor_type", "feature_extractor_type"];
        let Some((key, class)) = key.iter().find_map(|key| Some((*key, self.get(key)?))) else {
            return Ok("CLIPImageProcessor");
        };
        match class.as_str() {
            Some(class) if CLASSES.contains(&class) => Ok(class),
            _ => Err(self.error(key, &format!("{class} is not implemented; there are {}", CLASSES.join(", ")))),
        }
    }

    fn aspect_ratio(&self, class: &str) -> Result<AspectRatio, ImageError> {
        if let Some(value) = self.get("image_aspect_ratio") {
            return serde_json::from_value(value.clone()).map_err(|_| {
                self.error(
                    "image_aspect_ratio",
                    &format!("{value} is not implemented; `crop` (LLaVA: `square`) or `pad`"),
                )
            });
        }
        // CLIP's `do_pad` evens out sizes inside a batch, of which there is one; LLaVA's makes a square first.
        let pads = class.starts_with("Llava") && self.get("do_pad") == Some(&Value::Bool(true));
        Ok(if pads { AspectRatio::Pad } else { AspectRatio::Crop })
    }

    fn size(&self) -> Result<ResizeTo, ImageError> {
        let Some(value) = self.get("size") else {
            return Ok(ResizeTo::ShortestEdge(224));
        };
        if value.is_number() {
            let edge = self.side("size", value)?;
            let square = self.get("default_to_square") == Some(&Value::Bool(true));
            return Ok(if square {
                ResizeTo::Exact { height: edge, width: edge }
            } else {
                ResizeTo::ShortestEdge(edge)
            });
        }
        if let Some(edge) = non_null(value, "shortest_edge") {
            if non_null(value, "longest_edge").is_some() {
                return Err(self.error("size", "`longest_edge` beside `shortest_edge` is not implemented"));
            }
            return Ok(ResizeTo::ShortestEdge(self.side("size.shortest_edge", edge)?));
        }
        let (height, width) = self.height_width("size", value)?;
        Ok(ResizeTo::Exact { height, width })
    }

    fn crop_size(&self) -> Result<(usize, usize), ImageError> {
        match self.get("crop_size") {
            None => Ok((224, 224)),
            Some(value) if value.is_number() => {
                let side = self.side("crop_size", value)?;
                Ok((side, side))
            }
            Some(value) => self.height_width("crop_size", value),
        }
    }

    fn height_width(&self, key: &str, value: &Value) -> Result<(usize, usize), ImageError> {
        if let Some([height, width]) = value.as_array().map(Vec::as_slice) {
            return Ok((self.side(key, height)?, self.side(key, width)?));
        }
        match (non_null(value, "height"), non_null(value, "width")) {
            (Some(height), Some(width)) => Ok((self.side(key, height)?, self.side(key, width)?)),
            _ => Err(self.error(
                key,
                &format!("{value} is none of a number, {{\"shortest_edge\": n}} and {{\"height\": n, \"width\": n}}"),
            )),
        }
    }

    fn side(&self, key: &str, value: &Value) -> Result<usize, ImageError> {
        match value.as_u64() {
            Some(side @ 1..=MAX_SIDE) => Ok(side as usize),
            _ => Err(self.error(key, &format!("{value} is not a whole number from 1 to {MAX_SIDE}"))),
        }
    }

    fn filter(&self) -> Result<Filter, ImageError> {
        match self.get("resample").map(|value| (value, value.as_u64())) {
            None | Some((_, Some(3))) => Ok(Filter::Bicubic),
            Some((_, Some(2))) => Ok(Filter::Bilinear),
            Some((value, _)) => {
                Err(self.error("resample", &format!("{value} is not implemented; 2 (bilinear) or 3 (bicubic)")))
            }
        }
    }

    fn rescale_factor(&self) -> Result<f64, ImageError> {
        match self.get("rescale_factor") {
            None => Ok(1.0 / 255.0),
            Some(value) => {
                value.as_f64().ok_or_else(|| self.error("rescale_factor", &format!("{value} is not a number")))
            }
        }
    }

    fn channels(&self, key: &str, default: [f64; 3]) -> Result<[f64; 3], ImageError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        if let Some(one) = value.as_f64() {
            return Ok([one; 3]);
        }
        serde_json::from_value(value.clone())
            .map_err(|_| self.error(key, &format!("{value} is not a list of three numbers")))
    }

    /// A `do_*` flag; CLIP's defaults are all true.
    fn flag(&self, key: &str) -> Result<bool, ImageError> {
        match self.get(key) {
            None => Ok(true),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.error(key, &format!("{value} is neither true nor false"))),
        }
    }

    /// A key that is set to something and known to nobody here might change the pixels.
    fn refuse_unknown(&self) -> Result<(), ImageError> {
        const READ: [&str; 15] = [
            "image_processor_type",
            "feature_extractor_type",
            "image_aspect_ratio",
            "do_pad",
            "size",
            "default_to_square",
            "crop_size",
            "resample",
            "rescale_factor",
            "image_mean",
            "image_std",
            "do_resize",
            "do_center_crop",
            "do_rescale",
            "do_normalize",
        ];
        for (key, value) in self.config {
            let off = matches!(value, Value::Null | Value::Bool(false));
            let known = READ.contains(&key.as_str()) || INERT.contains(&key.as_str());
            if !off && !known {
                return Err(self.error(
                    key,
                    &format!("{value}: this setting is not implemented; remove it if it does not change the pixels"),
                ));
            }
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn error(&self, key: &str, reason: &str) -> ImageError {
        ImageError::config(self.path, format!("`{key}`: {reason}"))
    }
}

fn non_null<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|value| !value.is_null())
}
