/* A small path tracer, to be split into tiles that different providers render.
 *
 *     pathtracer WIDTH HEIGHT SAMPLES TILE COLUMNS ROWS [OUTPUT]
 *
 * Renders tile number TILE (from 0, row by row) of a picture of WIDTH x HEIGHT that is cut into COLUMNS x ROWS, with
 * SAMPLES paths for each pixel, and writes it as a binary PPM to OUTPUT (default /work/tile-TILE.ppm). The picture is
 * the same however it is cut, on every machine: each pixel has a random sequence of its own, and WebAssembly's floating
 * point is exact. One line on stdout says what was done.
 *
 * The scene: three large spheres (glass, mirror, clay) among a spiral of small ones on a chequered floor, under a warm
 * round lamp and a blue evening sky. Light is gathered by following paths of up to MAX_BOUNCES; at each matt hit the
 * lamp is also sampled directly, which is what makes soft shadows clean with few samples.
 *
 * Only WASI preview 1; build with `make wasm`.
 */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BOUNCES 8
#define MAX_SIDE 8192
#define SMALL_SPHERES 26
#define SPHERES (3 + SMALL_SPHERES + 1)
#define LAMP (SPHERES - 1)
#define BRIGHTEST 6.0f
#define FAR 1e30f
#define NEAR 1e-3f
#define PI 3.14159265f

typedef struct {
    float x, y, z;
} Vec;

static inline Vec vec(float x, float y, float z) { return (Vec){x, y, z}; }
static inline Vec add(Vec a, Vec b) { return vec(a.x + b.x, a.y + b.y, a.z + b.z); }
static inline Vec sub(Vec a, Vec b) { return vec(a.x - b.x, a.y - b.y, a.z - b.z); }
static inline Vec mul(Vec a, Vec b) { return vec(a.x * b.x, a.y * b.y, a.z * b.z); }
static inline Vec scale(Vec a, float f) { return vec(a.x * f, a.y * f, a.z * f); }
static inline float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static inline Vec cross(Vec a, Vec b) {
    return vec(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}
static inline Vec unit(Vec a) { return scale(a, 1.0f / sqrtf(dot(a, a))); }
static inline Vec mirrored(Vec d, Vec n) { return sub(d, scale(n, 2.0f * dot(d, n))); }

/* --- chance ------------------------------------------------------------------------------------------------------ */

/* PCG (O'Neill 2014), one stream for each pixel. */
typedef struct {
    uint64_t state, stream;
} Random;

static uint32_t next_bits(Random *random) {
    uint64_t old = random->state;
    random->state = old * 6364136223846793005ull + random->stream;
    uint32_t mixed = (uint32_t)(((old >> 18) ^ old) >> 27);
    uint32_t turn = (uint32_t)(old >> 59);
    return (mixed >> turn) | (mixed << ((32 - turn) & 31));
}

/* In [0, 1). */
static float chance(Random *random) { return (float)(next_bits(random) >> 8) * (1.0f / 16777216.0f); }

static Random random_for(uint32_t pixel) {
    Random random = {0, ((uint64_t)pixel << 1) | 1};
    next_bits(&random);
    random.state += 0x853c49e6748fea9bull;
    next_bits(&random);
    return random;
}

/* A point on the unit sphere, without trigonometry (Marsaglia 1972). */
static Vec on_sphere(Random *random) {
    for (;;) {
        float a = 2.0f * chance(random) - 1.0f, b = 2.0f * chance(random) - 1.0f;
        float s = a * a + b * b;
        if (s < 1.0f) {
            float r = 2.0f * sqrtf(1.0f - s);
            return vec(a * r, b * r, 1.0f - 2.0f * s);
        }
    }
}

/* --- scene ------------------------------------------------------------------------------------------------------- */

typedef enum { MATT, MIRROR, GLASS, LIGHT } Kind;

typedef struct {
    Vec centre, colour;
    float radius, roughness;
    Kind kind;
} Sphere;

static Sphere scene[SPHERES];
static uint64_t rays;

/* A colour of the wheel, `turn` in [0, 1). */
static Vec hue(float turn) {
    Vec colour;
    float *parts[3] = {&colour.x, &colour.y, &colour.z};
    for (int i = 0; i < 3; i++) {
        float t = turn + (float)(3 - i) / 3.0f;
        t = fabsf((t - floorf(t)) * 6.0f - 3.0f) - 1.0f;
        *parts[i] = t < 0.0f ? 0.0f : t > 1.0f ? 1.0f : t;
    }
    return colour;
}

static void build_scene(void) {
    scene[0] = (Sphere){vec(-0.15f, 1.0f, 0.9f), vec(0.98f, 0.99f, 1.0f), 1.0f, 0.0f, GLASS};
    scene[1] = (Sphere){vec(2.15f, 1.0f, -0.7f), vec(0.96f, 0.86f, 0.70f), 1.0f, 0.04f, MIRROR};
    scene[2] = (Sphere){vec(-2.25f, 1.0f, -0.9f), vec(0.80f, 0.28f, 0.20f), 1.0f, 0.0f, MATT};
    for (int i = 0; i < SMALL_SPHERES; i++) {
        /* A sunflower's spiral: neighbours never meet, and there is no pattern to see. */
        float angle = 2.39996f * (float)i, distance = 1.7f + 0.55f * sqrtf((float)i * 1.7f + 0.5f);
        float radius = 0.19f + 0.13f * (float)((i * 7) % 5) / 4.0f;
        Vec colour = add(scale(hue((float)i * 0.618034f), 0.62f), vec(0.28f, 0.28f, 0.28f));
        Kind kind = i % 5 == 1 ? GLASS : i % 3 == 0 ? MIRROR : MATT;
        if (kind == GLASS) colour = add(scale(colour, 0.25f), vec(0.75f, 0.75f, 0.75f));
        Vec centre = vec(distance * cosf(angle), radius, distance * sinf(angle));
        for (int large = 0; large < 3; large++) {
            /* Whatever would stand inside a large sphere is moved out along the floor. */
            Vec away = vec(centre.x - scene[large].centre.x, 0.0f, centre.z - scene[large].centre.z);
            float room = 2.0f * sqrtf(radius * scene[large].radius) + 0.04f, now = sqrtf(dot(away, away));
            if (now < room) centre = add(centre, scale(away, (room - now) / now));
        }
        scene[3 + i] = (Sphere){centre, colour, radius, i % 2 ? 0.0f : 0.12f, kind};
    }
    scene[LAMP] = (Sphere){vec(-3.6f, 6.4f, 4.2f), vec(19.0f, 14.5f, 9.5f), 1.35f, 0.0f, LIGHT};
}

static Vec sky(Vec direction) {
    float t = direction.y > 0.0f ? sqrtf(direction.y) : 0.0f;
    return add(scale(vec(0.74f, 0.52f, 0.40f), 0.62f * (1.0f - t)), scale(vec(0.10f, 0.22f, 0.52f), 0.75f * t));
}

typedef struct {
    float distance;
    Vec point, normal, colour;
    float roughness;
    Kind kind;
    int sphere; /* -1 for the floor */
} Hit;

/* Distance along the ray at which it enters (or, from inside, leaves) the sphere; FAR if it does not. */
static inline float meet(const Sphere *sphere, Vec origin, Vec direction) {
    Vec to = sub(sphere->centre, origin);
    float along = dot(to, direction);
    float inside = sphere->radius * sphere->radius - (dot(to, to) - along * along);
    if (inside <= 0.0f) return FAR;
    float half = sqrtf(inside);
    if (along - half > NEAR) return along - half;
    return along + half > NEAR ? along + half : FAR;
}

static int trace(Vec origin, Vec direction, Hit *hit) {
    rays++;
    float best = FAR;
    int which = -2;
    for (int i = 0; i < SPHERES; i++) {
        float distance = meet(&scene[i], origin, direction);
        if (distance < best) best = distance, which = i;
    }
    if (direction.y < -1e-6f) {
        float distance = -origin.y / direction.y;
        if (distance > NEAR && distance < best) best = distance, which = -1;
    }
    if (which == -2) return 0;
    hit->distance = best;
    hit->point = add(origin, scale(direction, best));
    hit->sphere = which;
    if (which == -1) {
        int dark = ((int)floorf(hit->point.x) + (int)floorf(hit->point.z)) & 1;
        /* The chequers fade with the distance, so that the horizon does not shimmer. */
        float fade = 1.0f / (1.0f + 0.004f * dot(hit->point, hit->point));
        float grey = 0.36f + (dark ? -0.20f : 0.20f) * fade;
        hit->colour = vec(grey, grey * 0.98f, grey * 0.95f);
        hit->normal = vec(0.0f, 1.0f, 0.0f);
        hit->kind = MATT;
        hit->roughness = 0.0f;
    } else {
        hit->colour = scene[which].colour;
        hit->normal = scale(sub(hit->point, scene[which].centre), 1.0f / scene[which].radius);
        hit->kind = scene[which].kind;
        hit->roughness = scene[which].roughness;
    }
    return 1;
}

static int in_shadow(Vec origin, Vec direction, float distance) {
    rays++;
    for (int i = 0; i < SPHERES; i++)
        if (i != LAMP && meet(&scene[i], origin, direction) < distance) return 1;
    return 0;
}

/* --- light ------------------------------------------------------------------------------------------------------- */

/* Light that reaches a matt point straight from the lamp: one point of the cone that the lamp fills is tried. */
static Vec from_lamp(const Hit *hit, Random *random) {
    const Sphere *lamp = &scene[LAMP];
    Vec to = sub(lamp->centre, hit->point);
    float distance2 = dot(to, to), sine2 = lamp->radius * lamp->radius / distance2;
    if (sine2 >= 1.0f) return vec(0.0f, 0.0f, 0.0f);
    float narrow = 1.0f - sqrtf(1.0f - sine2);
    Vec w = scale(to, 1.0f / sqrtf(distance2));
    Vec u = unit(cross(fabsf(w.x) > 0.5f ? vec(0.0f, 1.0f, 0.0f) : vec(1.0f, 0.0f, 0.0f), w)), v = cross(w, u);
    float cosine = 1.0f - chance(random) * narrow, sine = sqrtf(1.0f - cosine * cosine);
    float a, b, s;
    do {
        a = 2.0f * chance(random) - 1.0f;
        b = 2.0f * chance(random) - 1.0f;
        s = a * a + b * b;
    } while (s >= 1.0f || s == 0.0f);
    s = sine / sqrtf(s);
    Vec direction = add(add(scale(u, a * s), scale(v, b * s)), scale(w, cosine));
    float facing = dot(direction, hit->normal);
    if (facing <= 0.0f) return vec(0.0f, 0.0f, 0.0f);
    float distance = meet(lamp, hit->point, direction);
    if (distance >= FAR || in_shadow(hit->point, direction, distance)) return vec(0.0f, 0.0f, 0.0f);
    return scale(mul(hit->colour, lamp->colour), 2.0f * narrow * facing);
}

static Vec through_glass(Vec direction, const Hit *hit, Random *random) {
    float entering = dot(direction, hit->normal);
    Vec normal = entering < 0.0f ? hit->normal : scale(hit->normal, -1.0f);
    float ratio = entering < 0.0f ? 1.0f / 1.5f : 1.5f, cosine = fabsf(entering);
    float sine2 = ratio * ratio * (1.0f - cosine * cosine);
    if (sine2 < 1.0f) {
        /* Schlick's approximation of how much is reflected. */
        float outer = entering < 0.0f ? cosine : sqrtf(1.0f - sine2), c = 1.0f - outer;
        float reflected = 0.04f + 0.96f * c * c * c * c * c;
        if (chance(random) >= reflected)
            return add(scale(direction, ratio), scale(normal, ratio * cosine - sqrtf(1.0f - sine2)));
    }
    return mirrored(direction, normal);
}

/* Colour seen from `origin` in `direction`. */
static Vec light_along(Vec origin, Vec direction, Random *random) {
    Vec light = vec(0.0f, 0.0f, 0.0f), strength = vec(1.0f, 1.0f, 1.0f);
    int lamp_counts = 1; /* not after a matt bounce: there the lamp was sampled already */
    for (int bounce = 0; bounce < MAX_BOUNCES; bounce++) {
        Hit hit;
        if (!trace(origin, direction, &hit)) return add(light, mul(strength, sky(direction)));
        origin = hit.point;
        if (hit.sphere == -1) {
            /* Evening haze over the floor: without it the horizon would be a hard dark edge. */
            float far2 = hit.distance * hit.distance, haze = far2 / (far2 + 700.0f);
            light = add(light, mul(strength, scale(sky(vec(0.0f, 0.0f, 1.0f)), haze)));
            strength = scale(strength, 1.0f - haze);
        }
        switch (hit.kind) {
        case LIGHT:
            return lamp_counts ? add(light, mul(strength, hit.colour)) : light;
        case MATT:
            light = add(light, mul(strength, from_lamp(&hit, random)));
            direction = add(hit.normal, on_sphere(random));
            if (dot(direction, direction) < 1e-6f) direction = hit.normal;
            direction = unit(direction);
            lamp_counts = 0;
            break;
        case MIRROR:
            direction = mirrored(direction, hit.normal);
            if (hit.roughness > 0.0f) direction = unit(add(direction, scale(on_sphere(random), hit.roughness)));
            if (dot(direction, hit.normal) <= 0.0f) return light;
            lamp_counts = 1;
            break;
        case GLASS:
            direction = unit(through_glass(direction, &hit, random));
            lamp_counts = 1;
            break;
        }
        strength = mul(strength, hit.colour);
        if (bounce > 2) {
            /* Russian roulette: weak paths end early, and those that go on count more. */
            float keep = fmaxf(strength.x, fmaxf(strength.y, strength.z));
            if (keep > 0.95f) keep = 0.95f;
            if (chance(random) >= keep) return light;
            strength = scale(strength, 1.0f / keep);
        }
    }
    return light;
}

/* --- picture ----------------------------------------------------------------------------------------------------- */

/* From light to a byte: a filmic curve (Hable's shape, simplified) and gamma 2. */
static uint8_t developed(float light) {
    float curve = light * (2.51f * light + 0.03f) / (light * (2.43f * light + 0.59f) + 0.14f);
    float value = sqrtf(curve < 0.0f ? 0.0f : curve > 1.0f ? 1.0f : curve) * 255.0f + 0.5f;
    return (uint8_t)value;
}

static void render_pixel(int x, int y, int width, int height, int samples, uint8_t *out) {
    Random random = random_for((uint32_t)y * (uint32_t)width + (uint32_t)x);
    Vec eye = vec(0.6f, 2.35f, 8.6f), target = vec(0.0f, 0.72f, 0.0f);
    Vec ahead = unit(sub(target, eye)), right = unit(cross(ahead, vec(0.0f, 1.0f, 0.0f))), up = cross(right, ahead);
    float zoom = 0.46f, focus = 8.1f, aperture = 0.05f;
    Vec sum = vec(0.0f, 0.0f, 0.0f);
    for (int i = 0; i < samples; i++) {
        float u = (2.0f * ((float)x + chance(&random)) - (float)width) / (float)height * zoom;
        float v = ((float)height - 2.0f * ((float)y + chance(&random))) / (float)height * zoom;
        Vec lens = scale(on_sphere(&random), aperture);
        Vec from = add(eye, add(scale(right, lens.x), scale(up, lens.y)));
        Vec at = add(eye, scale(add(ahead, add(scale(right, u), scale(up, v))), focus));
        Vec light = light_along(from, unit(sub(at, from)), &random);
        /* A single path that finds the lamp through two mirrors would leave a white dot. */
        float brightest = fmaxf(light.x, fmaxf(light.y, light.z));
        sum = add(sum, brightest > BRIGHTEST ? scale(light, BRIGHTEST / brightest) : light);
    }
    sum = scale(sum, 1.0f / (float)samples);
    out[0] = developed(sum.x);
    out[1] = developed(sum.y);
    out[2] = developed(sum.z);
}

static int failed(const char *what, const char *path) {
    dprintf(2, "pathtracer: %s %s: %s\n", what, path, strerror(errno));
    return 1;
}

static int put(int file, const void *data, size_t size) {
    const char *next = data;
    while (size > 0) {
        ssize_t done = write(file, next, size);
        if (done <= 0) return -1;
        next += done;
        size -= (size_t)done;
    }
    return 0;
}

int main(int argc, char **argv) {
    static uint8_t line[MAX_SIDE * 3];
    char fallback[32], header[48];
    long n[6];
    for (int i = 0; i < 6; i++) n[i] = i + 1 < argc ? strtol(argv[i + 1], NULL, 10) : -1;
    int width = (int)n[0], height = (int)n[1], samples = (int)n[2], tile = (int)n[3];
    int columns = (int)n[4], rows = (int)n[5];
    if (argc < 7 || argc > 8 || width < 1 || width > MAX_SIDE || height < 1 || height > MAX_SIDE || samples < 1 ||
        samples > 65536 || columns < 1 || columns > width || rows < 1 || rows > height || tile < 0 ||
        tile >= columns * rows) {
        dprintf(2, "usage: pathtracer WIDTH HEIGHT SAMPLES TILE COLUMNS ROWS [OUTPUT]\n");
        return 2;
    }
    snprintf(fallback, sizeof fallback, "/work/tile-%d.ppm", tile);
    const char *path = argc == 8 ? argv[7] : fallback;

    int left = tile % columns * width / columns, right = (tile % columns + 1) * width / columns;
    int top = tile / columns * height / rows, bottom = (tile / columns + 1) * height / rows;
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0) return failed("cannot make", path);
    int length = snprintf(header, sizeof header, "P6\n%d %d\n255\n", right - left, bottom - top);
    if (put(file, header, (size_t)length) < 0) return failed("cannot write", path);

    build_scene();
    for (int y = top; y < bottom; y++) {
        for (int x = left; x < right; x++) render_pixel(x, y, width, height, samples, line + 3 * (x - left));
        if (put(file, line, 3 * (size_t)(right - left)) < 0) return failed("cannot write", path);
    }
    if (close(file) < 0) return failed("cannot write", path);
    dprintf(1, "tile %d: %d x %d pixels at (%d, %d), %d samples each, %llu rays\n", tile, right - left, bottom - top,
            left, top, samples, (unsigned long long)rays);
    return 0;
}
