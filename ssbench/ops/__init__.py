"""Pure tensor functions, one idea per file; nothing here knows a method, a plug-in or a file.

Letters in shape comments: B batch, C classes, H W pixels, h w feature grid, D channels.
"""
