"""The dashboard: pages in a browser over `/admin/v1`, without any data of their own."""
