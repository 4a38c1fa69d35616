/* AMX's bfloat16 tiles on any x86-64 with AVX2: to be preloaded. A tile instruction is illegal there, so it traps, and the
   handler does what Intel's manual says it does; whatever the manual forbids ends the process. Slow, strict, for tests. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { LDTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILESTORED, TDPBF16PS, KINDS };
static const char *NAMES[] = {"ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "tdpbf16ps"};
static const int REGISTERS[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
static long counts[KINDS];
static __thread struct { uint8_t palette, rows[8]; uint16_t bytes[8]; uint8_t data[8][16][64]; } tiles;

static void forbid(int wrong, const char *why) {
    if (wrong) {
        fprintf(stderr, "tile instruction: %s\n", why);
        _exit(77);
    }
}

static void use(int tile) { forbid(tiles.palette != 1 || tile > 7 || !tiles.rows[tile], "tile not configured"); }

static float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static void configure(const uint8_t *from) {
    memset(&tiles, 0, sizeof tiles);
    for (int i = 1; i < 64; i++) forbid(from[i] && (i < 16 || (i >= 32 && i < 48) || i >= 56), "reserved byte");
    forbid(from[0] != 1, "palette");
    for (int tile = 0; tile < 8; tile++) {
        memcpy(&tiles.bytes[tile], from + 16 + 2 * tile, 2);
        tiles.rows[tile] = from[48 + tile];
        forbid(tiles.bytes[tile] > 64 || tiles.rows[tile] > 16 || !tiles.bytes[tile] != !tiles.rows[tile], "shape");
    }
    tiles.palette = 1;
}

/* Even and odd products have a sum each; subnormal numbers are zeros. */
static void multiply(int sums, int a, int b) {
    use(sums), use(a), use(b);
    forbid(sums == a || sums == b || a == b, "one tile twice");
    forbid(tiles.bytes[sums] != tiles.bytes[b] || tiles.rows[sums] != tiles.rows[a] || tiles.bytes[a] / 4 != tiles.rows[b], "shapes");
    unsigned mode = _mm_getcsr();
    _mm_setcsr(0x1f80 | 0x8040);
    for (int m = 0; m < tiles.rows[sums]; m++)
        for (int n = 0; n < tiles.bytes[sums] / 4; n++) {
            float part[2] = {0, 0};
            for (int k = 0; k < tiles.rows[b]; k++)
                for (int odd = 0; odd < 2; odd++) {
                    uint16_t x, y;
                    memcpy(&x, tiles.data[a][m] + 4 * k + 2 * odd, 2);
                    memcpy(&y, tiles.data[b][k] + 4 * n + 2 * odd, 2);
                    part[odd] = fmaf(widen(x), widen(y), part[odd]);
                }
            ((float *)tiles.data[sums][m])[n] += part[0] + part[1];
        }
    _mm_setcsr(mode);
}

static void trapped(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    int opcode = code[3], prefix = code[2] & 3, mode = code[4] >> 6, tile = code[4] >> 3 & 7, low = code[4] & 7, length = 5;
    int third = ~(code[2] >> 3) & 15, extended = (code[1] & 0x20) ? 0 : 8, indexed = (code[1] & 0x40) ? 0 : 8;
    forbid(code[0] != 0xc4 || (code[1] & 0x9f) != 0x82 || (code[2] & 0x84), "no tile instruction at an illegal one");
    int64_t address = 0, stride = 0;
    if (mode != 3) {
        int base = low;
        if (low == 4) {
            int sib = code[length++], index = (sib >> 3 & 7) | indexed;
            base = sib & 7;
            stride = index == 4 ? 0 : registers[REGISTERS[index]] << (sib >> 6);
        }
        forbid((opcode == 0x4b && low != 4) || (mode == 0 && base == 5), "form of the address");
        address = registers[REGISTERS[base | extended]];
        int32_t far = 0;
        if (mode == 2) memcpy(&far, code + length, 4);
        address += mode == 1 ? (int8_t)code[length] : far;
        length += mode == 1 ? 1 : 2 * mode;
    }
    int kind = opcode == 0x5c && prefix == 2 && mode == 3 ? TDPBF16PS
             : opcode == 0x4b && prefix == 3 && mode != 3 ? TILELOADD
             : opcode == 0x4b && prefix == 2 && mode != 3 ? TILESTORED
             : opcode == 0x49 && prefix == 3 && mode == 3 ? TILEZERO
             : opcode == 0x49 && prefix == 0 && mode != 3 ? LDTILECFG
             : opcode == 0x49 && prefix == 0 && code[4] == 0xc0 ? TILERELEASE : KINDS;
    forbid(kind == KINDS, "unknown");
    forbid(kind != TDPBF16PS && third, "reserved field");
    if (kind == LDTILECFG) configure((const uint8_t *)address);
    if (kind == TILERELEASE) memset(&tiles, 0, sizeof tiles);
    if (kind == TDPBF16PS) multiply(tile, low | extended, third);
    if (kind == TILEZERO || kind == TILELOADD || kind == TILESTORED) use(tile);
    if (kind == TILEZERO || kind == TILELOADD) memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
    for (int row = 0; row < tiles.rows[tile]; row++) {
        if (kind == TILELOADD) memcpy(tiles.data[tile][row], (void *)(address + row * stride), tiles.bytes[tile]);
        if (kind == TILESTORED) memcpy((void *)(address + row * stride), tiles.data[tile][row], tiles.bytes[tile]);
    }
    __sync_fetch_and_add(&counts[kind], 1);
    registers[REG_RIP] += length;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGILL, &action, NULL);
}

__attribute__((destructor)) static void end(void) {
    for (int kind = 0; kind < KINDS; kind++) fprintf(stderr, "%s %ld\n", NAMES[kind], counts[kind]);
}
