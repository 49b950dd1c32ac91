/**
 * Plain JPEGs at libjpeg-turbo's own price, for native.ts: an addon by Node-API, built by deploy/build-native.sh.
 *
 * It answers only for what it is sure of. At the first error or warning of libjpeg, and for whatever is not 8-bit grey,
 * YCbCr or RGB in Huffman codes, it says no, and the picture is sharp's. So what becomes of a damaged picture is decided
 * in one place, and the pixels of a sound one are libjpeg's, here as there: accurate DCT, fancy upsampling.
 *
 * A thread has one decoder (Node-API's instance data), used by one picture at a time: open, read …, close. A thrown
 * exception is a mistake of the caller; `false` is the picture's doing.
 */
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <node_api.h>

#ifndef LIBJPEG_TURBO_VERSION_NUMBER
#error "this libjpeg is not libjpeg-turbo: its pixels are others"
#endif

#define TEXT_OF(macro) TEXT(macro)
#define TEXT(text) #text

/** Rows that are decoded before they are copied: a turned picture is written in runs of as many pixels. */
enum { MAX_ROWS = 16 };

/** Photographs have up to ten scans. libvips, too, bounds them: each goes over all of the picture. */
enum { MAX_SCANS = 100 };

typedef struct {
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf refused;
  bool is_open;
  /** Keeps the encoded bytes alive while the picture is open. */
  napi_ref source;
  /** MAX_ROWS rows of RGB. */
  uint8_t *rows;
  size_t rows_size;
} Decoder;

static void refuse(j_common_ptr jpeg) { longjmp(((Decoder *)jpeg->client_data)->refused, 1); }

static void on_message(j_common_ptr jpeg, int level) {
  if (level < 0) refuse(jpeg);
}

static void on_progress(j_common_ptr jpeg) {
  if (((j_decompress_ptr)jpeg)->input_scan_number > MAX_SCANS) refuse(jpeg);
}

static void close_picture(napi_env env, Decoder *decoder) {
  if (decoder->source) napi_delete_reference(env, decoder->source);
  decoder->source = NULL;
  decoder->is_open = false;
  // `jpeg_abort` would leave a picture's tables to the next, which may have lost its own.
  jpeg_destroy_decompress(&decoder->jpeg);
}

static void destroy_decoder(napi_env env, void *instance, void *hint) {
  (void)hint;
  Decoder *decoder = instance;
  close_picture(env, decoder);
  free(decoder->rows);
  free(decoder);
}

static bool has_every_bit(const struct jpeg_decompress_struct *jpeg) {
  // Of a progressive picture that lacks scans libjpeg guesses the rest, each version in its own way.
  if (!jpeg->progressive_mode) return true;
  for (int component = 0; component < jpeg->num_components; component++)
    for (int coefficient = 0; coefficient < DCTSIZE2; coefficient++)
      if (jpeg->coef_bits[component][coefficient] != 0) return false;
  return true;
}

/** Makes ready to read rows from the top. */
static bool start(Decoder *decoder, uint8_t *bytes, size_t length, uint32_t width, uint32_t height) {
  j_decompress_ptr jpeg = &decoder->jpeg;
  jpeg->err = jpeg_std_error(&decoder->errors);
  decoder->errors.error_exit = refuse;
  decoder->errors.emit_message = on_message;
  decoder->progress.progress_monitor = on_progress;
  jpeg->client_data = decoder;
  if (setjmp(decoder->refused)) return false;
  jpeg_create_decompress(jpeg);
  jpeg->progress = &decoder->progress;
  jpeg_mem_src(jpeg, bytes, length);
  if (jpeg_read_header(jpeg, TRUE) != JPEG_HEADER_OK) return false;
  if (jpeg->image_width != width || jpeg->image_height != height) return false;
  if (jpeg->data_precision != 8 || jpeg->arith_code) return false;
  J_COLOR_SPACE colours = jpeg->jpeg_color_space;
  if (colours != JCS_GRAYSCALE && colours != JCS_YCbCr && colours != JCS_RGB) return false;
  jpeg->out_color_space = JCS_RGB;
  jpeg->dct_method = JDCT_ISLOW;
  jpeg->do_fancy_upsampling = TRUE;
  return jpeg_start_decompress(jpeg) && has_every_bit(jpeg);
}

static bool make_room(Decoder *decoder) {
  size_t size = (size_t)decoder->jpeg.output_width * 3 * MAX_ROWS;
  if (size <= decoder->rows_size) return true;
  free(decoder->rows);
  decoder->rows = malloc(size);
  decoder->rows_size = decoder->rows ? size : 0;
  return decoder->rows != NULL;
}

/** What of the picture is wanted, and where in the target its pixel (x, y) lies: at origin + x * step_x + y * step_y. */
typedef struct {
  int64_t left, right, top, bottom;
  int64_t origin, step_x, step_y;
} Region;

static bool read_rows(Decoder *decoder, uint8_t *target, const Region *region) {
  j_decompress_ptr jpeg = &decoder->jpeg;
  size_t row_bytes = (size_t)jpeg->output_width * 3;
  JSAMPROW rows[MAX_ROWS];
  for (int n = 0; n < MAX_ROWS; n++) rows[n] = decoder->rows + n * row_bytes;
  if (setjmp(decoder->refused)) return false;
  while (jpeg->output_scanline < region->top) jpeg_read_scanlines(jpeg, rows, 1);
  while (jpeg->output_scanline < region->bottom) {
    int64_t y = jpeg->output_scanline;
    int64_t left = region->bottom - y;
    int count = 0, wanted = left < MAX_ROWS ? (int)left : MAX_ROWS;
    while (count < wanted) count += jpeg_read_scanlines(jpeg, rows + count, wanted - count);
    uint8_t *to = target + region->origin + y * region->step_y;
    if (region->step_x == 3) {
      for (int n = 0; n < count; n++)
        memcpy(to + n * region->step_y + region->left * 3, rows[n] + region->left * 3,
               (region->right - region->left) * 3);
      continue;
    }
    for (int64_t x = region->left; x < region->right; x++)
      for (int n = 0; n < count; n++)
        memcpy(to + x * region->step_x + n * region->step_y, rows[n] + x * 3, 3);
  }
  return true;
}

/** Reads what is left, for damage that lies below the crop is damage. */
static bool finish(Decoder *decoder) {
  j_decompress_ptr jpeg = &decoder->jpeg;
  JSAMPROW row = decoder->rows;
  if (setjmp(decoder->refused)) return false;
  while (jpeg->output_scanline < jpeg->output_height) jpeg_read_scanlines(jpeg, &row, 1);
  return jpeg_finish_decompress(jpeg);
}

static napi_value answer(napi_env env, bool value) {
  napi_value result;
  return napi_get_boolean(env, value, &result) == napi_ok ? result : NULL;
}

static napi_value mistake(napi_env env) {
  napi_throw_type_error(env, NULL, "wrong arguments: this is a bug");
  return NULL;
}

static bool bytes_of(napi_env env, napi_value value, uint8_t **bytes, size_t *length) {
  napi_typedarray_type type;
  bool is_array;
  return napi_is_typedarray(env, value, &is_array) == napi_ok && is_array &&
         napi_get_typedarray_info(env, value, &type, length, (void **)bytes, NULL, NULL) == napi_ok &&
         type == napi_uint8_array;
}

/** The instance's decoder, and the `count` arguments of a call. */
static Decoder *arguments(napi_env env, napi_callback_info info, napi_value *values, size_t count) {
  size_t given = count;
  void *decoder;
  if (napi_get_cb_info(env, info, &given, values, NULL, NULL) != napi_ok || given != count) return NULL;
  return napi_get_instance_data(env, &decoder) == napi_ok ? decoder : NULL;
}

/** open(bytes, width, height): boolean */
static napi_value open_picture(napi_env env, napi_callback_info info) {
  napi_value values[3];
  Decoder *decoder = arguments(env, info, values, 3);
  uint8_t *bytes;
  size_t length;
  uint32_t width, height;
  if (!decoder || !bytes_of(env, values[0], &bytes, &length)) return mistake(env);
  if (napi_get_value_uint32(env, values[1], &width) != napi_ok) return mistake(env);
  if (napi_get_value_uint32(env, values[2], &height) != napi_ok) return mistake(env);
  close_picture(env, decoder);
  if (napi_create_reference(env, values[0], 1, &decoder->source) != napi_ok) return mistake(env);
  decoder->is_open = start(decoder, bytes, length, width, height) && make_room(decoder);
  if (!decoder->is_open) close_picture(env, decoder);
  return answer(env, decoder->is_open);
}

/** read(target, left, right, top, bottom, origin, stepX, stepY): boolean; rows above `top` that were not read are gone. */
static napi_value read_picture(napi_env env, napi_callback_info info) {
  napi_value values[8];
  Decoder *decoder = arguments(env, info, values, 8);
  uint8_t *target;
  size_t length;
  if (!decoder || !decoder->is_open || !bytes_of(env, values[0], &target, &length)) return mistake(env);
  int64_t numbers[7];
  for (int n = 0; n < 7; n++)
    if (napi_get_value_int64(env, values[n + 1], &numbers[n]) != napi_ok) return mistake(env);
  Region region = {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};

  struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
  if (region.left < 0 || region.left >= region.right || region.right > jpeg->output_width) return mistake(env);
  if (region.top < jpeg->output_scanline || region.top >= region.bottom) return mistake(env);
  if (region.bottom > jpeg->output_height) return mistake(env);
  int64_t limit = (int64_t)1 << 40; // no sum of these overflows
  if (llabs(region.origin) > limit || llabs(region.step_x) > limit / JPEG_MAX_DIMENSION) return mistake(env);
  if (llabs(region.step_y) > limit / JPEG_MAX_DIMENSION) return mistake(env);
  for (int corner = 0; corner < 4; corner++) {
    int64_t x = corner & 1 ? region.right - 1 : region.left, y = corner & 2 ? region.bottom - 1 : region.top;
    int64_t at = region.origin + x * region.step_x + y * region.step_y;
    if (at < 0 || at + 3 > (int64_t)length) return mistake(env);
  }

  bool is_read = read_rows(decoder, target, &region);
  if (!is_read) close_picture(env, decoder);
  return answer(env, is_read);
}

/** close(): boolean; true if all of the picture was sound. */
static napi_value finish_picture(napi_env env, napi_callback_info info) {
  Decoder *decoder = arguments(env, info, NULL, 0);
  if (!decoder) return mistake(env);
  bool is_sound = decoder->is_open && finish(decoder);
  close_picture(env, decoder);
  return answer(env, is_sound);
}

static bool export_function(napi_env env, napi_value exports, const char *name, napi_callback function) {
  napi_value value;
  return napi_create_function(env, name, NAPI_AUTO_LENGTH, function, NULL, &value) == napi_ok &&
         napi_set_named_property(env, exports, name, value) == napi_ok;
}

NAPI_MODULE_INIT() {
  Decoder *decoder = calloc(1, sizeof *decoder);
  napi_value version;
  if (!decoder || napi_set_instance_data(env, decoder, destroy_decoder, NULL) != napi_ok ||
      napi_create_string_utf8(env, TEXT_OF(LIBJPEG_TURBO_VERSION), NAPI_AUTO_LENGTH, &version) != napi_ok ||
      napi_set_named_property(env, exports, "version", version) != napi_ok ||
      !export_function(env, exports, "open", open_picture) ||
      !export_function(env, exports, "read", read_picture) ||
      !export_function(env, exports, "close", finish_picture))
    napi_throw_error(env, NULL, "the JPEG decoder could not be opened");
  return exports;
}
