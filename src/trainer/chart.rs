//! Line charts as SVG, for the report.
//!
//! The SVG names CSS classes instead of colours, so that the page's light and dark themes apply to it, and leaves text to the
//! browser's fonts. A series is thinned to what a screen can show.

use std::fmt::Write;

use super::report::escape;

/// Size in SVG units; the page scales it to the column.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 250.0;
/// Room for the tick labels and the last values.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Points beyond which a series is thinned.
const MAX_POINTS: usize = 600;
/// Points from which a noisy series is drawn faint, under its running mean.
const SMOOTH_FROM: usize = 60;
/// Points up to which each is marked and tells its value when pointed at.
const MARK_UP_TO: usize = 40;

/// How the vertical axis writes its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// As they are.
    Plain,
    /// A share of 1 as a percentage, always from 0 to 100.
    Percent,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// `(step, value)`, ordered by step; values that are not finite leave a gap.
    pub points: Vec<(f64, f64)>,
    /// Whether a running mean helps to read it.
    pub noisy: bool,
}

/// Several lines over the same steps.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// Unit of the vertical axis.
    pub unit: Unit,
    /// The lines; those without a finite value are left out.
    pub series: Vec<Series>,
}

impl Chart {
    /// Whether there is anything to draw.
    pub fn is_empty(&self) -> bool {
        !self.series.iter().any(|series| series.points.iter().any(|point| point.1.is_finite()))
    }

    /// A `<figure>` with heading, legend and picture; empty where there is nothing to draw.
    pub fn to_html(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let drawn: Vec<&Series> =
            self.series.iter().filter(|series| series.points.iter().any(|point| point.1.is_finite())).collect();
        let mut html = format!("<figure class=\"chart\"><figcaption><h3>{}</h3><ul>", escape(&self.title));
        for (i, series) in drawn.iter().enumerate() {
            let last = series.points.iter().rev().find(|point| point.1.is_finite()).map_or(f64::NAN, |point| point.1);
            let value = self.label(last, precision(last));
            let name = escape(&series.name);
            let _ = write!(html, "<li class=\"c{}\"><i></i>{name}<b>{value}</b></li>", i % 4);
        }
        html.push_str("</ul></figcaption>");
        self.svg(&drawn, &mut html);
        html.push_str("</figure>");
        html
    }

    fn svg(&self, drawn: &[&Series], out: &mut String) {
        let area = Area::around(drawn, self.unit);
        let title = escape(&self.title);
        let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
        let (y_ticks, y_step) = ticks(area.y, 5);
        for tick in y_ticks {
            let y = area.y_of(tick);
            let label = self.label(tick, y_step);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
            );
        }
        let (x_ticks, x_step) = ticks(area.x, 7);
        for tick in x_ticks.into_iter().filter(|tick| tick.fract().abs() < 1e-9) {
            let (x, bottom) = (area.x_of(tick), HEIGHT - BOTTOM);
            let label = number(tick, x_step.max(1.0));
            let _ = write!(
                out,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                bottom + 4.0,
                bottom + 18.0,
            );
        }
        let bottom = HEIGHT - BOTTOM;
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{bottom}\" y2=\"{bottom}\"/>",
            WIDTH - RIGHT
        );
        for (i, series) in drawn.iter().enumerate() {
            self.line(series, i % 4, &area, out);
        }
        out.push_str("</svg>");
    }

    fn line(&self, series: &Series, colour: usize, area: &Area, out: &mut String) {
        let smooth = series.noisy && series.points.len() >= SMOOTH_FROM;
        let _ = write!(out, "<path class=\"line c{colour}{}\" d=\"", if smooth { " faint" } else { "" });
        path(&thin(&series.points), area, out);
        out.push_str("\"/>");
        if smooth {
            let _ = write!(out, "<path class=\"line c{colour}\" d=\"");
            path(&thin(&running_mean(&series.points)), area, out);
            out.push_str("\"/>");
        }
        if series.points.len() <= MARK_UP_TO {
            for &(step, value) in series.points.iter().filter(|point| point.1.is_finite()) {
                let (x, y, label) = (area.x_of(step), area.y_of(value), self.label(value, precision(value)));
                let _ = write!(
                    out,
                    "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.8\">\
                     <title>step {step}: {label}</title></circle>",
                );
            }
        }
    }

    /// A value, precise to about `step`.
    fn label(&self, value: f64, step: f64) -> String {
        match self.unit {
            Unit::Plain => number(value, step),
            Unit::Percent => format!("{}%", number(value * 100.0, (step * 100.0).max(0.1))),
        }
    }
}

/// The ranges that are shown and where they lie on the picture.
struct Area {
    x: (f64, f64),
    y: (f64, f64),
}

impl Area {
    fn around(drawn: &[&Series], unit: Unit) -> Self {
        let points = || drawn.iter().flat_map(|series| &series.points).filter(|point| point.1.is_finite());
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let mut x = range(&mut points().map(|point| point.0));
        let mut y = range(&mut points().map(|point| point.1));
        if x.0 == x.1 {
            x = (x.0 - 1.0, x.1 + 1.0);
        }
        if unit == Unit::Percent {
            y = (y.0.min(0.0), y.1.max(1.0));
        } else {
            // Zero is shown where it is near, so that the eye can compare heights.
            if y.0 > 0.0 && y.0 < 0.6 * y.1 {
                y.0 = 0.0;
            }
            let room = if y.0 == y.1 { y.0.abs().max(1e-9) * 0.5 } else { (y.1 - y.0) * 0.06 };
            y = (if y.0 == 0.0 { 0.0 } else { y.0 - room }, y.1 + room);
        }
        Self { x, y }
    }

    fn x_of(&self, step: f64) -> f64 {
        LEFT + (step - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y_of(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// Round positions within a range, about `count` of them, and their distance.
fn ticks((low, high): (f64, f64), count: usize) -> (Vec<f64>, f64) {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|m| m * power >= rough).unwrap_or(10.0) * power;
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    ((first..=last).map(|i| i as f64 * step).collect(), step)
}

/// A number with as many decimals as a difference of `step` needs.
fn number(value: f64, step: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let size = value.abs();
    if !(1e-3..1e7).contains(&size) || (size < 1e-2 && step < 1e-3) {
        return trim(&format!("{value:.2e}"));
    }
    if size >= 1e4 {
        return trim(&format!("{:.1}", value / 1e3)) + "k";
    }
    let decimals = if step > 0.0 { (-step.log10().floor()).clamp(0.0, 5.0) as usize } else { 3 };
    // A step such as 0.25 needs one more.
    let decimals = decimals + usize::from((step * 10f64.powi(decimals as i32)).fract() > 1e-6 && decimals < 5);
    trim(&format!("{value:.decimals$}"))
}

/// The difference that three significant digits of a value resolve.
fn precision(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() { 1.0 } else { 10f64.powf(value.abs().log10().floor() - 2.0) }
}

/// Without zeros at the end of the decimals.
fn trim(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').map_or((text, None), |(digits, e)| (digits, Some(e)));
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    exponent.map_or_else(|| digits.to_owned(), |e| format!("{digits}e{e}"))
}

/// At most [`MAX_POINTS`] points: of each run of neighbours, the lowest and the highest.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    let run = points.len().div_ceil(MAX_POINTS / 2);
    let pick = |run: &[(f64, f64)]| {
        let by = |i: &usize, j: &usize| run[*i].1.total_cmp(&run[*j].1);
        let low = (0..run.len()).min_by(by).unwrap_or(0);
        let high = (0..run.len()).max_by(by).unwrap_or(0);
        [run[low.min(high)], run[low.max(high)]]
    };
    points.chunks(run).flat_map(pick).collect()
}

/// The mean of each point and its neighbours, a thirtieth of the series in all; fewer towards the ends.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 60;
    // Sums and counts of the finite values before each point.
    let mut before = Vec::with_capacity(points.len() + 1);
    let mut total = (0.0, 0usize);
    before.push(total);
    for &(_, value) in points {
        if value.is_finite() {
            total = (total.0 + value, total.1 + 1);
        }
        before.push(total);
    }
    let mean = |i: usize| {
        let reach = reach.min(i).min(points.len() - 1 - i);
        let (from, to) = (before[i - reach], before[i + reach + 1]);
        if to.1 > from.1 { (to.0 - from.0) / (to.1 - from.1) as f64 } else { f64::NAN }
    };
    points.iter().enumerate().map(|(i, point)| (point.0, mean(i))).collect()
}

/// SVG path data; a gap where a value is not finite.
fn path(points: &[(f64, f64)], area: &Area, out: &mut String) {
    let mut pen_down = false;
    for &(step, value) in points {
        if !value.is_finite() {
            pen_down = false;
            continue;
        }
        let command = if pen_down { 'L' } else { 'M' };
        let _ = write!(out, "{command}{:.1} {:.1}", area.x_of(step), area.y_of(value));
        pen_down = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, unit: Unit) -> Chart {
        let series = vec![Series { name: "a <b>".into(), points, noisy: true }];
        Chart { title: "Loss & \"more\"".into(), unit, series }
    }

    #[test]
    fn nothing_finite_draws_nothing() {
        assert_eq!(chart(vec![], Unit::Plain).to_html(), "");
        assert_eq!(chart(vec![(1.0, f64::NAN)], Unit::Plain).to_html(), "");
    }

    #[test]
    fn single_constant_huge_and_broken_series_stay_finite() {
        let cases: [Vec<(f64, f64)>; 4] = [
            vec![(5.0, 2.0)],
            (0..9).map(|i| (f64::from(i), 0.0)).collect(),
            vec![(1.0, 1e30), (2.0, -1e30), (3.0, f64::INFINITY), (4.0, 1.0)],
            (0..5000).map(|i| (f64::from(i), f64::from(i).sin())).collect(),
        ];
        for points in cases {
            for unit in [Unit::Plain, Unit::Percent] {
                let html = chart(points.clone(), unit).to_html();
                assert!(html.contains("<svg") && !html.contains("NaN") && !html.contains("inf"), "{html}");
                assert!(html.contains("a &lt;b&gt;") && html.contains("Loss &amp; &quot;more&quot;"));
                assert!(html.len() < 60_000, "{}", html.len());
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        let check = |value: f64, step: f64, text: &str| assert_eq!(number(value, step), text);
        check(0.5, 0.25, "0.5");
        check(0.75, 0.25, "0.75");
        check(2e-5, 5e-6, "2e-5");
        check(12_500.0, 2_500.0, "12.5k");
        check(300.0, 100.0, "300");
        check(1.23456, 0.001, "1.235");
        check(1e-3, 2.5e-4, "1e-3");
        check(5311.7, precision(5311.7), "5312");
        check(0.18185, precision(0.18185), "0.182");
    }

    #[test]
    fn ticks_lie_inside_and_are_round() {
        let (ticks, step) = ticks((0.0, 1.06), 5);
        assert_eq!(step, 0.25);
        assert_eq!(ticks, [0.0, 0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn thinning_keeps_extremes() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 0.0)).collect();
        points[7777].1 = 9.0;
        let thinned = thin(&points);
        assert!(thinned.len() <= MAX_POINTS && thinned.contains(&(7777.0, 9.0)));
    }
}
