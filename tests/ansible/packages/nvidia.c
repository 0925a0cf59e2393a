/* What modinfo reads of a kernel module. */
__attribute__((section(".modinfo"), used)) static const char version[] = "version=" VERSION;
__attribute__((section(".modinfo"), used)) static const char license[] = "license=Dual MIT/GPL";
