"""The mix-core device plugin for Baidu Kunlun XPUs."""
